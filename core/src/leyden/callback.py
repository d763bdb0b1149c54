"""Callback: code that runs beside the model at the points of a run that it asks for."""

from collections.abc import Mapping
from typing import Any, ClassVar

from leyden.plugin_system.hooks import Observation
from leyden.utilities.exceptions import MisconfigurationException


class Callback(Observation):
    """Base class of callbacks: override the hooks you need, keep state in the instance.

    An author *must* write nothing and *may* override every hook, :meth:`state_dict` and :meth:`load_state_dict`.
    The hooks are the methods of :class:`leyden.plugin_system.hooks.Observation`; one that is not
    overridden costs nothing.

    Attributes:
        role: "checkpoint", "progress_bar", "model_summary", "early_stopping", "timer", or None. A Trainer leaves out
            its default callback of a role if it is given another one of that role. Checkpoint callbacks run last.
    """

    role: ClassVar[str | None] = None
    _logging_module: Any = None  # the LightningModule of the run

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint; unique among the Trainer's callbacks that have state."""
        return type(self).__qualname__

    def _generate_state_key(self, **kwargs: Any) -> str:
        """A state key from the class's name and the arguments that tell two instances apart."""
        return f"{type(self).__qualname__}{kwargs!r}"

    def log(self, name: str, value: Any, *args: Any, **options: Any) -> None:
        """Log as the module does; the arguments are those of ``LightningModule.log``.

        Raises:
            MisconfigurationException: No run is under way, or it has no meaning in the hook that runs.
        """
        if self._logging_module is None:
            raise MisconfigurationException(
                f"self.log({name!r}, …) of {type(self).__name__} was called outside of a run; log from a hook."
            )
        self._logging_module.log(name, value, *args, **options)

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **options: Any) -> None:
        """Log several values with the same options; see :meth:`log`."""
        for name, value in dictionary.items():
            self.log(name, value, *args, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_logging_module"}

    def state_dict(self) -> dict[str, Any]:
        """State to keep in checkpoints: plain data and tensors."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""

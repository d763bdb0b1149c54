"""Callback: code that runs at chosen points of a run, separate from the model."""

from collections.abc import Mapping
from typing import Any, ClassVar

from leyden.plugin_system.hooks import Observation
from leyden.utilities import MisconfigurationException


class Callback(Observation):
    """Base class of callbacks: override the hooks that you need, and keep state in the instance.

    An author *must* implement nothing and *may* override every hook, :meth:`state_dict` and :meth:`load_state_dict`.
    The hooks are the methods of :class:`leyden.plugin_system.hooks.Observation`; a hook that is not overridden costs
    nothing.

    Attributes:
        role: "checkpoint", "progress_bar", "model_summary", "early_stopping" or "timer", if the callback can replace
            that default callback of the Trainer; else None. A Trainer that gets a callback with a role does not make
            the default one. Checkpoint callbacks run after the others.
        distinction: What tells this callback from others with its :attr:`state_key`, such as the arguments that the key
            has not; a Trainer takes several with one key if this differs.
    """

    role: ClassVar[str | None] = None
    distinction: str = ""
    _logging_module: Any = None  # the LightningModule of the run

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint.

        Of two callbacks with state and one key, the :attr:`distinction` must differ.
        """
        return type(self).__qualname__

    def _generate_state_key(self, **kwargs: Any) -> str:
        """Return a state key made of the class's name and the arguments in which instances differ."""
        return f"{type(self).__qualname__}{kwargs!r}"

    def log(self, name: str, value: Any, *args: Any, **options: Any) -> None:
        """Log a value; the arguments are those of ``LightningModule.log``.

        Raises:
            MisconfigurationException: There is no run, or the running hook does not allow logging.
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

    def start_anew(self) -> None:
        """Be as before the first fit; called before a fit from the beginning, which another Trainer's may precede.

        Override it where the state of one fit must not decide on the next, as in cross-validation. A fit that goes on
        from a checkpoint, or from the fit before of the same Trainer, does not call it.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state to keep in checkpoints: plain data and tensors."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""

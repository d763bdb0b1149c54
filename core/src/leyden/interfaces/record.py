"""Record: the values of one logged name. The core has records of numbers; plugins bring those of other objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden.metrics import LogOptions
    from leyden.trainer import Trainer


class Record(ABC):
    """The values that one name was given by ``self.log``, in one hook, for one dataloader, during one epoch.

    A plugin brings a record for the objects of a library, its metrics for example. The component has the kind "record"
    and the name of the objects' class, ``"package.module.Class"``; objects of derived classes are logged by it too.
    ``self.log`` makes the record when a name is logged for the first time in an epoch, and gives it the object in every
    call.

    An author *must* write :meth:`update`, which takes an object, :meth:`step_value` and :meth:`reduce_epoch`, which
    return its value in a step and over the epoch, and the two methods that keep its state in checkpoints. An author
    *may* override :meth:`declare` to refuse an object, :meth:`forget` to clear it when the epoch ends, and
    :meth:`outline` and :meth:`take_part` for processes that have not logged the name.

    Args:
        name: The name as logged.
        asked: The arguments of ``self.log`` as the user gave them. None for a record that comes from a checkpoint; the
            next call of ``self.log`` declares that one again.
        options: The arguments with the hook's defaults filled in.
        dataloader_idx: The number of the evaluation loader; None where there is only one loader.
        trainer: The Trainer of the run.

    Attributes:
        kind: The name of the record's component; None for the records of the core.
        strategy: Reduces values over processes if ``sync_dist`` asks for it.
        name: The name, with the suffix of the dataloader where there are several.
        step_name: The name of the value of a step, with that suffix.
        epoch_name: The name of the value of the epoch, with that suffix.
        reduces_at_once: Whether the epoch's value is reduced as soon as it is logged. It is so in hooks that all
            processes call once: a single process may then ask for the value without the others.
        final: The reduced value of the epoch, kept so that it is reduced only once; None before.
    """

    kind: str | None = None

    def __init__(
        self, name: str, asked: LogOptions | None, options: LogOptions, dataloader_idx: int | None, trainer: Trainer
    ) -> None:
        self.asked, self.options = asked, options
        self.dataloader_idx = dataloader_idx
        suffix = "" if dataloader_idx is None or not options.add_dataloader_idx else f"/dataloader_idx_{dataloader_idx}"
        forked = bool(options.on_step and options.on_epoch)
        self.name = name + suffix
        self.step_name = (f"{name}_step" if forked else name) + suffix
        self.epoch_name = (f"{name}_epoch" if forked else name) + suffix
        self.trainer, self.strategy = trainer, trainer.strategy
        self.reduces_at_once = False
        self.final: Any = None

    def declare(self, value: Any, records: Mapping[tuple[str, str, int | None], Record]) -> None:
        """Check the first value of the name in an epoch, before :meth:`update`; raise an error to refuse it.

        Args:
            value: The value.
            records: The other records of the loop, by hook, name and dataloader.
        """

    @abstractmethod
    def update(self, value: Any, batch_size: Callable[[], int] | int, counts: bool = True) -> None:
        """Take one value.

        Args:
            value: The value.
            batch_size: The weight of the value in a mean. Where it is a function, call it only if the weight is needed.
            counts: Whether the value is a part of the epoch's value too.
        """

    @abstractmethod
    def step_value(self) -> Any:
        """The value at this step, a tensor on its device; None where there is none."""

    def epoch_value(self) -> Any:
        """The value over the epoch, reduced when it is first asked for; None where there is none."""
        if self.final is None:
            self.final = self.reduce_epoch()
        return self.final

    @abstractmethod
    def reduce_epoch(self) -> Any:
        """Reduce the epoch's value over all processes, which reduce their records in the same order.

        Returns:
            A tensor on its device; None where there is no value.
        """

    def forget(self) -> None:
        """Clear what outlives the record; called when the epoch is over."""

    def outline(self) -> dict[str, Any] | str | None:
        """Describe the record for a process that had no batch, has not logged the name, and must still take part.

        Returns:
            Plain data, which :meth:`take_part` is given in that process. A string if a process without values can't
            take part: the reason, as a part of a sentence. None if the record is not reduced over processes.
        """
        return None

    def take_part(self, outline: dict[str, Any]) -> None:
        """Prepare a record without values for :meth:`reduce_epoch`.

        Args:
            outline: What :meth:`outline` returned in another process.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any] | None:
        """The state that an exact resume in the middle of an epoch needs, as plain data; None if it can't be kept."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""

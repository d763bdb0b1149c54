"""A record: what is kept of one logged name. The core has that of numbers, plugins those of a library's objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden.metrics import LogOptions
    from leyden.trainer import Trainer


class Record(ABC):
    """One logged name in one hook of one dataloader, for one epoch.

    A plugin brings one for the objects of a library, its metrics say, as a component of the kind "record" whose name is
    that of their class, ``"package.module.Class"``; it takes objects of derived classes too. ``self.log`` makes the
    record when a name is logged for the first time in an epoch, and gives it the object in every call. An author *must*
    write how an object is taken, what it is in a step and over an epoch, and what is kept of it in the middle of one,
    and *may* refuse an object, clear it when the epoch ends, and let processes take part that have not logged it.

    Args:
        name: The name as logged.
        asked: The arguments as the user gave them; None for one from a checkpoint, which the next call declares anew.
        options: The same with the hook's defaults filled in.
        dataloader_idx: Set where there are several evaluation loaders.
        trainer: Whose run it is.

    Attributes:
        kind: The name of its component; None for the core's.
        strategy: Reduces over processes where ``sync_dist`` asks for it.
        name: The name with the dataloader's suffix, where it has one; so are the two others.
        step_name: What a step's value is called.
        epoch_name: What the epoch's value is called.
        reduces_at_once: Whether the value is reduced when it is logged, which is in a hook of all processes, after
            which any one of them may ask for it.
        final: The epoch's value so far, reduced over processes once, however often it is asked for.
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
        """Called by the call that declares the name, before :meth:`update`; raise to refuse the value.

        Args:
            value: The value.
            records: The other records of the loop, by hook, name and dataloader.
        """

    @abstractmethod
    def update(self, value: Any, batch_size: Callable[[], int] | int, counts: bool = True) -> None:
        """Take one value; ``batch_size`` is called only where a weighted mean needs it.

        Args:
            value: The value.
            batch_size: Its weight in a mean.
            counts: Whether it is a part of the epoch's value too.
        """

    @abstractmethod
    def step_value(self) -> Any:
        """What this name is at this step, as a tensor on its device, or None."""

    def epoch_value(self) -> Any:
        """What this name is over the epoch, or None."""
        if self.final is None:
            self.final = self.reduce_epoch()
        return self.final

    @abstractmethod
    def reduce_epoch(self) -> Any:
        """The epoch's value over all processes, as a tensor on its device, or None; all processes ask in one order."""

    def forget(self) -> None:
        """The epoch is over: clear what outlives the record."""

    def outline(self) -> dict[str, Any] | str | None:
        """What a process that has not logged the name, for want of a batch, must know to take part in the reduction.

        Returns:
            Plain data for :meth:`take_part`. Where no process can do without values, why, as a clause. None where
            nothing is reduced over processes.
        """
        return None

    def take_part(self, outline: dict[str, Any]) -> None:
        """Take part in :meth:`reduce_epoch` without values of one's own; ``outline`` is another process's."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any] | None:
        """What an exact resume in the middle of an epoch needs, as plain data; None where the record can't be kept."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""

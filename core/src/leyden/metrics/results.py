"""What has been logged in one loop: its records, and what of them is to be seen now."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from leyden.interfaces.record import Record
from leyden.metrics.options import REDUCTIONS, LogOptions
from leyden.metrics.record import TensorRecord

if TYPE_CHECKING:
    from leyden.trainer import Trainer


class Moment(Enum):
    """Whose values are to be seen now."""

    STEP = "those of the step that runs, or ran last"
    STEP_KEPT = "the same, and they have been kept already: values kept since then are newer"
    EPOCH = "those of the epoch, which is over"


class Shown(NamedTuple):
    """Values by name, as each of those who ask sees them."""

    callbacks: dict[str, Any]
    loggers: dict[str, Any]
    bars: dict[str, Any]


class Results:
    """The records of one loop, from the start of its epoch to the end.

    Args:
        trainer: Whose loop it is.
        training: Whether callbacks see the values of a step; of an evaluation they see those of the epoch alone.

    Attributes:
        records: By hook, name and dataloader.
        moment: Whose values are to be seen.
        dataloader_idx: The running dataloader, where there are several; only its records are seen.
        batches: Batches of each loader in each process, where they have told each other.
    """

    def __init__(self, trainer: Trainer, training: bool = False) -> None:
        self.trainer, self.training = trainer, training
        self.records: dict[tuple[str, str, int | None], Record] = {}
        self.batches: list[tuple[int | float, ...]] = []
        self.reset()

    def new_record(self, kind: str | None, name: str, asked: LogOptions | None, options: LogOptions) -> Record:
        """A record of the running dataloader, without values.

        Args:
            kind: The name of the component that brings it; None for the core's, of numbers.
            name: See :class:`leyden.interfaces.record.Record`, for the others too.
            asked: The arguments of the call.
            options: The arguments with defaults filled in.

        Raises:
            UnknownComponentError: No plugin brings a component of that name.
        """
        cls = TensorRecord if kind is None else self.trainer.plugin_manager.component("record", kind).load()
        record: Record = cls(name, asked, options, self.dataloader_idx, self.trainer)
        record.kind = kind
        return record

    def metrics(self) -> Shown:
        """What callbacks, loggers and progress bars are to see now."""
        shown = Shown({}, {}, {})
        on_step = self.moment is not Moment.EPOCH
        for record in self.records.values():
            if record.dataloader_idx != self.dataloader_idx:
                continue
            value = record.step_value() if on_step else record.epoch_value()
            if not isinstance(value, Tensor):
                continue
            name = record.step_name if on_step else record.epoch_name
            if record.options.logger:
                shown.loggers[name] = value
            if self.training or not on_step:
                shown.callbacks[record.name] = shown.callbacks[name] = value
            if record.options.prog_bar:
                shown.bars[name] = value
        return shown

    def reset(self) -> None:
        """Forget all values; objects that were logged are reset too."""
        for record in self.records.values():
            record.forget()
        self.records.clear()
        self.moment = Moment.EPOCH
        self.dataloader_idx: int | None = None

    def state_dict(self) -> list[dict[str, Any]]:
        """The open accumulations as plain data, for an exact resume in the middle of an epoch."""
        states = []
        for key, record in self.records.items():
            if (state := record.state_dict()) is None:
                continue
            reduction = REDUCTIONS.get(record.options.reduce_fx)
            options = record.options._replace(reduce_fx=reduction or "", sync_dist_group=None)
            states.append({"key": list(key), "kind": record.kind, "options": options._asdict(), **state})
        return states

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Take back what :meth:`state_dict` returned."""
        for state in states:
            hook, name, dataloader_idx = state["key"]
            kind = state["kind"]
            if kind is not None and not self.trainer.plugin_manager.named("record", kind):
                continue  # its plugin is not there, which was said
            record = self.new_record(kind, name, None, LogOptions(**state["options"]))
            record.load_state_dict(state)
            self.records[hook, name, dataloader_idx] = record

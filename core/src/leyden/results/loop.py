"""What has been logged in one loop: its records, and what of them is to be seen now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from leyden.results.options import REDUCTIONS, LogOptions
from leyden.results.record import MetricRecord, Record, TensorRecord


class Metrics(NamedTuple):
    """Values by name, as each of those who ask sees them."""

    callbacks: dict[str, Any]
    loggers: dict[str, Any]
    bars: dict[str, Any]


class Results:
    """The records of one loop, from the start of its epoch to the end.

    Args:
        training: Whether callbacks see the values of a step; of an evaluation they see those of the epoch alone.

    Attributes:
        records: By hook, name and dataloader.
        epoch_ended: Whether it is the epoch's values that are to be seen, and not those of a step.
        step_kept: Whether the step's values have been kept; those that came after them are newer.
        dataloader_idx: The running dataloader, where there are several; only its records are seen.
        batches: Batches of each loader in each process, where they have told each other.
    """

    def __init__(self, training: bool = False) -> None:
        self.training = training
        self.records: dict[tuple[str, str, int | None], Record] = {}
        self.step_kept = False
        self.batches: list[tuple[int | float, ...]] = []
        self.reset()

    def metrics(self) -> Metrics:
        """What callbacks, loggers and progress bars are to see now."""
        shown = Metrics({}, {}, {})
        on_step = not self.epoch_ended
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
        """Forget all values; torchmetrics objects are reset too."""
        for record in self.records.values():
            record.forget()
        self.records.clear()
        self.epoch_ended = True
        self.dataloader_idx: int | None = None

    def state_dict(self, metric_names: Mapping[int, str]) -> list[dict[str, Any]]:
        """The open accumulations as plain data, for an exact resume in the middle of an epoch.

        Args:
            metric_names: The module's torchmetrics objects: ``id`` to name.
        """
        states = []
        for key, record in self.records.items():
            name = metric_names.get(id(record.metric)) if isinstance(record, MetricRecord) else None
            if isinstance(record, MetricRecord) and name is None:
                continue
            reduction = REDUCTIONS.get(record.options.reduce_fx)
            options = record.options._replace(reduce_fx=reduction or "", sync_dist_group=None)
            states.append({"key": list(key), "options": options._asdict(), "metric": name, **record.state_dict()})
        return states

    def load_state_dict(self, states: list[dict[str, Any]], metrics: Mapping[str, Any], strategy: Any) -> None:
        """Take back what :meth:`state_dict` returned.

        Args:
            states: The saved records.
            metrics: The module's torchmetrics objects by name.
            strategy: Reduces over processes where ``sync_dist`` asks for it.
        """
        for state in states:
            hook, name, dataloader_idx = state["key"]
            arguments = (name, None, LogOptions(**state["options"]), dataloader_idx, strategy)
            record: Record
            if state["metric"] is None:
                record = TensorRecord(*arguments)
            elif state["metric"] in metrics:
                record = MetricRecord(*arguments)
                record.metric = metrics[state["metric"]]
            else:
                continue
            record.load_state_dict(state)
            self.records[hook, name, dataloader_idx] = record

"""The record of a logged metric object: computes it at the end of an epoch, over all processes, and resets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from leyden.plugins import Record
from leyden.utilities.exceptions import MisconfigurationException
from leyden_torchmetrics.apart import apart


class MetricRecord(Record):
    """A logged metric object. Its step value is the forward call's; its epoch value is computed from its state.

    Attributes:
        metric: The metric; None if a resumed run's module no longer has it.
    """

    metric: Metric | None = None

    def declare(self, value: Any, records: Mapping[tuple[str, str, int | None], Record]) -> None:
        """Refuse a metric with two names, which would be computed and reset twice, and one that the module lacks."""
        for other in records.values():
            same = isinstance(other, MetricRecord) and other.metric is value
            if same and (other.name, other.dataloader_idx) != (self.name, self.dataloader_idx):
                raise MisconfigurationException(
                    f"One metric object is logged as {other.name!r} and as {self.name!r}; make one object for each "
                    "name."
                )
        is_named = self.asked is not None and self.asked.metric_attribute is not None
        if not is_named and self._attribute(value) is None:
            raise MisconfigurationException(
                f"self.log({self.name!r}, …) got a {type(value).__name__} that is not an attribute of the "
                "LightningModule; assign it in __init__ (self.metric = …) so that it moves to the device."
            )

    def update(self, value: Any, batch_size: Callable[[], int] | int, counts: bool = True) -> None:
        """Keep the metric, which has already accumulated the batch."""
        if not isinstance(value, Metric):
            raise ValueError(
                f"self.log({self.name!r}, …) got {value!r} of type {type(value).__name__}, but before it got a metric; "
                "log one of them under another name."
            )
        self.metric, self.final = value, None

    def step_value(self) -> Any:
        """Return the metric's value for this batch, or None."""
        return self.metric._forward_cache if self.metric is not None and self.options.on_step else None

    def reduce_epoch(self) -> Any:
        """Return the metric's value for the epoch, or None.

        Raises:
            MisconfigurationException: The metric was never updated.
        """
        if self.metric is None or not self.options.on_epoch:
            return None
        if not self.metric.update_called:
            raise MisconfigurationException(
                f"The metric logged as {self.name!r} was never updated; call it, or its update(), before it is "
                "computed."
            )
        with apart(self.metric) if self.strategy.world_size == 1 else nullcontext():
            return self.metric.compute()

    def forget(self) -> None:
        """Reset the metric."""
        if self.metric is not None:
            self.metric.reset()

    def outline(self) -> dict[str, Any] | str | None:
        """Return the metric's name in the module, and an empty tensor for each list that it collects.

        A process without a batch needs them for :meth:`take_part`. Returns a reason, as text, if such a process can't
        take part, and None if the metric is not synchronised.
        """
        if self.metric is None or not self.options.on_epoch or not self.metric.sync_on_compute:
            return None
        attribute = self._attribute(self.metric)
        if attribute is None:
            return "a metric that is not an attribute of the module needs all processes"
        lists, can_be_empty = _lists(self.metric)
        if not can_be_empty:
            return "a metric that collects lists that can't be concatenated needs all processes"
        return {"metric": attribute, "lists": lists}

    def take_part(self, outline: dict[str, Any]) -> None:
        """Let this process's metric be computed together with those of the others, though it has no values."""
        metric: Any = self.trainer.lightning_module.get_submodule(outline["metric"])
        if not metric.update_called:
            for name, empty in outline["lists"].items():
                setattr(metric, name, [empty.to(metric.device)])
            metric._update_count = 1  # torchmetrics warns when a metric is computed without an update
        self.metric = metric

    def state_dict(self) -> dict[str, Any] | None:
        """Return the metric's name in the module and its value for this batch; its state is saved separately."""
        attribute = None if self.metric is None else self._attribute(self.metric)
        if self.metric is None or attribute is None:
            return None
        return {"metric": attribute, "forward": self.metric._forward_cache}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        metric = dict(self.trainer.lightning_module.named_modules()).get(state["metric"])
        if isinstance(metric, Metric):
            self.metric = metric
            metric._forward_cache = state["forward"]

    def _attribute(self, metric: Metric) -> str | None:
        """Return the metric's name in the module; None if the module does not have it."""
        return next((name for name, part in self.trainer.lightning_module.named_modules() if part is metric), None)


def _lists(metric: Any) -> tuple[dict[str, Tensor], bool]:
    """Return an empty tensor for each list that a metric collects, and whether all lists can be empty."""
    lists = {name: getattr(metric, name) for name, default in metric._defaults.items() if isinstance(default, list)}
    joined = {name for name, reduction in metric._reductions.items() if reduction is not None}
    has_own_sync = type(metric)._sync_dist is not Metric._sync_dist
    empty = {
        name: torch.empty_like(values[0], device="cpu")[:0]
        for name, values in lists.items()
        if name in joined and values and isinstance(values[0], Tensor) and values[0].dim()
    }
    return empty, has_own_sync or not any(values and name not in empty for name, values in lists.items())

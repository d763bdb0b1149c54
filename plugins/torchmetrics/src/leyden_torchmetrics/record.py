"""A metric that was logged: computed by epoch, over all processes, and reset after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from leyden.plugins import Record
from leyden.utilities.exceptions import MisconfigurationException


class MetricRecord(Record):
    """A metric logged as such: its value of a batch is the forward call's, its value of an epoch is computed.

    Attributes:
        metric: The metric; None where the module of a run that goes on no longer has it.
    """

    metric: Metric | None = None

    def declare(self, value: Any, records: Mapping[tuple[str, str, int | None], Record]) -> None:
        """Refuse a metric under two names, where it would be computed and reset twice, and one of nobody's."""
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
                f"self.log({self.name!r}, …) got a {type(value).__name__} that is no attribute of the LightningModule; "
                "assign it in __init__ (self.metric = …) so that it moves to the device and resets with the epoch."
            )

    def update(self, value: Any, batch_size: Callable[[], int] | int, counts: bool = True) -> None:
        """Take the metric, which has accumulated the batch itself."""
        if not isinstance(value, Metric):
            raise ValueError(
                f"self.log({self.name!r}, …) got {value!r} of type {type(value).__name__}, after a metric; log it "
                "under another name."
            )
        self.metric, self.final = value, None

    def step_value(self) -> Any:
        """The metric of this batch, or None."""
        return self.metric._forward_cache if self.metric is not None and self.options.on_step else None

    def reduce_epoch(self) -> Any:
        """The metric of the epoch, or None.

        Raises:
            MisconfigurationException: It has seen nothing.
        """
        if self.metric is None or not self.options.on_epoch:
            return None
        if not self.metric.update_called:
            raise MisconfigurationException(
                f"The metric logged as {self.name!r} was never updated; call it, or its update(), before it is "
                "computed."
            )
        return self.metric.compute()

    def forget(self) -> None:
        """Have the metric start anew."""
        if self.metric is not None:
            self.metric.reset()

    def outline(self) -> dict[str, Any] | str | None:
        """The metric's name in the module, and an empty tensor for each list that it collects."""
        if self.metric is None or not self.options.on_epoch or not self.metric.sync_on_compute:
            return None
        attribute = self._attribute(self.metric)
        if attribute is None:
            return "a metric that is no attribute of the module needs all processes"
        lists, are_joined = _lists(self.metric)
        if not are_joined:
            return "a metric that collects lists that can't be joined needs all processes"
        return {"metric": attribute, "lists": lists}

    def take_part(self, outline: dict[str, Any]) -> None:
        """Make this process's metric one that is computed with those of the others."""
        metric: Any = self.trainer.lightning_module.get_submodule(outline["metric"])
        if not metric.update_called:
            for name, empty in outline["lists"].items():
                setattr(metric, name, [empty.to(metric.device)])
            metric._update_count = 1  # torchmetrics warns of a metric that has seen nothing
        self.metric = metric

    def state_dict(self) -> dict[str, Any] | None:
        """Which metric it is, and its value of this batch; what it has accumulated is kept with the module."""
        attribute = None if self.metric is None else self._attribute(self.metric)
        if self.metric is None or attribute is None:
            return None
        return {"metric": attribute, "forward": self.metric._forward_cache}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        metric = dict(self.trainer.lightning_module.named_modules()).get(state["metric"])
        if isinstance(metric, Metric):
            self.metric = metric
            metric._forward_cache = state["forward"]

    def _attribute(self, metric: Metric) -> str | None:
        """The name of the metric in the module."""
        return next((name for name, part in self.trainer.lightning_module.named_modules() if part is metric), None)


def _lists(metric: Any) -> tuple[dict[str, Tensor], bool]:
    """An empty tensor like those in each list that a metric collects; whether all of the lists can be empty."""
    lists = {name: getattr(metric, name) for name, default in metric._defaults.items() if isinstance(default, list)}
    joined = {name for name, reduction in metric._reductions.items() if reduction is not None}
    own_way = type(metric)._sync_dist is not Metric._sync_dist
    empty = {
        name: torch.empty_like(values[0], device="cpu")[:0]
        for name, values in lists.items()
        if name in joined and values and isinstance(values[0], Tensor) and values[0].dim()
    }
    return empty, own_way or not any(values and name not in empty for name, values in lists.items())

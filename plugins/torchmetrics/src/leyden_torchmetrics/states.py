"""What the metrics of a module have accumulated, which its ``state_dict`` leaves out: kept and put back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from leyden.utilities.batch import move_data_to_device

if TYPE_CHECKING:
    from torch.nn import Module

    from leyden import Trainer

METRIC = "torchmetrics.metric.Metric"
"""The class of all metrics."""
KEY = "torchmetrics"
"""Under which the states are in a checkpoint."""


def metrics_of(module: Module) -> list[tuple[str, Any]]:
    """The metrics in a module, by name; none where nobody has imported torchmetrics."""
    torchmetrics = sys.modules.get("torchmetrics")
    if torchmetrics is None:
        return []
    return [(name, part) for name, part in module.named_modules() if isinstance(part, torchmetrics.Metric)]


def states_of(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """The state of every metric that has seen something, by name.

    Those that validation logs are reset when it ends, and start anew in one that is made again.
    """
    evaluated = {id(getattr(record, "metric", None)) for record in trainer.fit_loop.validation.results.records.values()}
    return {
        name: {"state": dict(metric.metric_state), "update_count": metric.update_count}
        for name, metric in metrics_of(trainer.lightning_module)
        if metric.update_count and id(metric) not in evaluated
    }


def restore(trainer: Trainer, saved: Mapping[str, Mapping[str, Any]]) -> None:
    """Put every metric where it was; one that is not among the ``saved`` starts anew."""
    for name, metric in metrics_of(trainer.lightning_module):
        if metric.update_count:
            metric.reset()
        if name in saved:
            for attribute, value in saved[name]["state"].items():
                setattr(metric, attribute, move_data_to_device(value, metric.device))
            metric._update_count = saved[name]["update_count"]

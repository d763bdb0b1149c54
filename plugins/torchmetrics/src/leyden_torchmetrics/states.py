"""Saves and restores the accumulated states of a module's metrics, which its ``state_dict`` leaves out."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from leyden.utilities.batch import move_data_to_device

if TYPE_CHECKING:
    from torch.nn import Module

METRIC = "torchmetrics.metric.Metric"
"""The base class of all metrics."""
KEY = "torchmetrics"
"""The key of the states in a checkpoint."""


def metrics_of(module: Module) -> list[tuple[str, Any]]:
    """Return the metrics of a module with their names; an empty list if torchmetrics was never imported."""
    torchmetrics = sys.modules.get("torchmetrics")
    if torchmetrics is None:
        return []
    return [(name, part) for name, part in module.named_modules() if isinstance(part, torchmetrics.Metric)]


def states_of(module: Module, without: Collection[int] = ()) -> dict[str, dict[str, Any]]:
    """Return the state of every metric of a module that was updated, by name, except those with ids in ``without``."""
    return {
        name: {"state": dict(metric.metric_state), "update_count": metric.update_count}
        for name, metric in metrics_of(module)
        if metric.update_count and id(metric) not in without
    }


def restore(module: Module, saved: Mapping[str, Mapping[str, Any]]) -> None:
    """Restore the state of every metric of a module; reset those that are not in ``saved``."""
    for name, metric in metrics_of(module):
        if metric.update_count:
            metric.reset()
        if name in saved:
            for attribute, value in saved[name]["state"].items():
                setattr(metric, attribute, move_data_to_device(value, metric.device))
            metric._update_count = saved[name]["update_count"]

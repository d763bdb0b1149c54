"""The arguments of ``self.log``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class LogOptions(NamedTuple):
    """The arguments of one ``self.log`` call that must stay the same for a name in a hook."""

    prog_bar: bool = False
    logger: bool | None = None
    on_step: bool | None = None
    on_epoch: bool | None = None
    reduce_fx: str | Callable[..., Any] = "mean"
    enable_graph: bool = False
    sync_dist: bool = False
    sync_dist_group: Any = None
    add_dataloader_idx: bool = True
    metric_attribute: str | None = None
    rank_zero_only: bool = False


REDUCTIONS: dict[Any, str] = {
    "mean": "mean", "avg": "mean", "min": "min", "max": "max", "sum": "sum",
    torch.mean: "mean", torch.min: "min", torch.max: "max", torch.sum: "sum", min: "min", max: "max", sum: "sum",
}  # fmt: skip

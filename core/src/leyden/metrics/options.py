"""The arguments of ``self.log``, and which of them each hook allows and assumes."""

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


class HookRule(NamedTuple):
    """Whether a hook runs in every step, so that on_step has a meaning, and its defaults."""

    step_allowed: bool
    on_step: bool
    on_epoch: bool


_STEP = HookRule(step_allowed=True, on_step=True, on_epoch=False)
_EPOCH = HookRule(step_allowed=False, on_step=False, on_epoch=True)
_EVALUATION_STEP = HookRule(step_allowed=True, on_step=False, on_epoch=True)
HOOK_RULES: dict[str, HookRule] = {
    **dict.fromkeys(
        (
            "training_step", "on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward",
            "on_after_backward", "on_before_optimizer_step", "optimizer_step", "optimizer_zero_grad", "backward",
            "lr_scheduler_step", "configure_gradient_clipping", "on_before_batch_transfer", "transfer_batch_to_device",
            "on_after_batch_transfer",
        ),
        _STEP,
    ),
    **dict.fromkeys(
        (
            "validation_step", "on_validation_batch_start", "on_validation_batch_end",
            "test_step", "on_test_batch_start", "on_test_batch_end",
        ),
        _EVALUATION_STEP,
    ),
    **dict.fromkeys(
        (
            "on_train_start", "on_train_epoch_start", "on_train_epoch_end",
            "on_validation_start", "on_validation_epoch_start", "on_validation_epoch_end",
            "on_test_start", "on_test_epoch_start", "on_test_epoch_end",
        ),
        _EPOCH,
    ),
}  # fmt: skip
REDUCTIONS: dict[Any, str] = {
    "mean": "mean", "avg": "mean", "min": "min", "max": "max", "sum": "sum",
    torch.mean: "mean", torch.min: "min", torch.max: "max", torch.sum: "sum", min: "min", max: "max", sum: "sum",
}  # fmt: skip

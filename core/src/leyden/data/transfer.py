"""How a batch reaches the device: decided once per run, so that a batch pays only for what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from leyden.interfaces.precision import Precision
from leyden.interfaces.strategy import Strategy
from leyden.mixins.hooks import DataHooks
from leyden.plugin_system.hooks import TRANSFER_HOOKS
from leyden.utilities.batch import move_data_to_device
from leyden.utilities.overriding import is_overridden

if TYPE_CHECKING:
    from leyden.trainer.run import Run


def transfer_function(run: Run, dataloader_idx: int) -> Callable[[Any], Any]:
    """A function that takes a batch of one loader and returns it, converted and on the device."""
    strategy, precision, metrics = run.strategy, run.strategy.precision, run.metrics
    to_device: Callable[[Any], Any] = strategy.batch_to_device
    if type(strategy).batch_to_device is Strategy.batch_to_device:
        non_blocking = strategy.accelerator.non_blocking_transfer
        to_device = partial(move_data_to_device, device=strategy.root_device, non_blocking=non_blocking)
    converts = type(precision).convert_input is not Precision.convert_input
    before, move, after = (_own_hook(run, name) for name in TRANSFER_HOOKS)
    if not (converts or before or move or after):
        return to_device

    def transfer(batch: Any) -> Any:
        with metrics.scope("on_before_batch_transfer"):
            if converts:
                batch = precision.convert_input(batch)
            if before is not None:
                batch = before(batch, dataloader_idx)
            batch = move(batch, strategy.root_device, dataloader_idx) if move is not None else to_device(batch)
            return after(batch, dataloader_idx) if after is not None else batch

    return transfer


def _own_hook(run: Run, name: str) -> Callable[..., Any] | None:
    """A transfer hook that is overridden: the data module's before the module's; None if neither has its own."""
    for owner in (run.datamodule, run.module):
        if owner is not None and is_overridden(name, owner, DataHooks):
            hook: Callable[..., Any] = getattr(owner, name)
            return hook
    return None

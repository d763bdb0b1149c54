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
from leyden.utilities.objects import is_overridden

if TYPE_CHECKING:
    from leyden.trainer.run import Run


def transfer_function(run: Run, dataloader_idx: int) -> Callable[[Any], Any]:
    """A function that takes a batch of one loader and returns it, converted and on the device."""
    strategy, precision, metrics = run.strategy, run.strategy.precision, run.metrics
    plain = type(strategy).batch_to_device is Strategy.batch_to_device
    if plain:
        to_device: Callable[[Any], Any] = partial(
            move_data_to_device, device=strategy.root_device, non_blocking=strategy.accelerator.non_blocking_transfer
        )
    else:
        to_device = strategy.batch_to_device
    owners = {name: _owner(run, name) for name in TRANSFER_HOOKS}
    converts = type(precision).convert_input is not Precision.convert_input
    if not converts and not any(owners.values()):
        return to_device
    before, move, after = (getattr(owners[n], n) if owners[n] is not None else None for n in TRANSFER_HOOKS)

    def transfer(batch: Any) -> Any:
        if converts:
            batch = precision.convert_input(batch)
        if before is not None:
            batch = before(batch, dataloader_idx)
        batch = move(batch, strategy.root_device, dataloader_idx) if move is not None else to_device(batch)
        return after(batch, dataloader_idx) if after is not None else batch

    def in_scope(batch: Any) -> Any:
        with metrics.scope("on_before_batch_transfer"):
            return transfer(batch)

    return in_scope


def _owner(run: Run, name: str) -> Any:
    """Who overrides a transfer hook: the data module before the module, None if neither does."""
    for candidate in (run.datamodule, run.module):
        if candidate is not None and is_overridden(name, candidate, DataHooks):
            return candidate
    return None

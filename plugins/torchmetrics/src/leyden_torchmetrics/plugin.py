"""What leyden-torchmetrics brings to Leyden: the record of metric objects, and their states in checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leyden import Component, hookimpl
from leyden_torchmetrics import states as kept

if TYPE_CHECKING:
    from leyden import Trainer


@hookimpl
def leyden_components() -> Iterator[Component]:
    """How ``self.log`` takes a metric."""
    yield Component("record", kept.METRIC, "leyden_torchmetrics.record:MetricRecord")


@hookimpl
def leyden_rank_state(trainer: Trainer) -> dict[str, Any] | None:
    """What the module's metrics have accumulated in this process; None where there is nothing."""
    states = kept.states_of(trainer)
    return {kept.KEY: states} if states else None


@hookimpl
def leyden_restore_rank_state(trainer: Trainer, states: Sequence[Mapping[str, Any]]) -> None:
    """Put it back; in a run of another number of processes the metrics start anew."""
    own = states[trainer.global_rank] if len(states) == trainer.world_size else {}
    kept.restore(trainer, own.get(kept.KEY, {}))

"""The plugin's hooks: logging of metric objects, and their states in checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leyden import Component, hookimpl
from leyden_torchmetrics import states as metric_states

if TYPE_CHECKING:
    from leyden import Trainer


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the record with which ``self.log`` logs metric objects."""
    yield Component("record", metric_states.METRIC, "leyden_torchmetrics.record:MetricRecord")


@hookimpl
def leyden_rank_state(trainer: Trainer) -> dict[str, Any] | None:
    """Return the accumulated states of the module's metrics in this process; None if there are none."""
    states = metric_states.states_of(trainer)
    return {metric_states.KEY: states} if states else None


@hookimpl
def leyden_restore_rank_state(trainer: Trainer, states: Sequence[Mapping[str, Any]]) -> None:
    """Restore the states of the metrics; if the number of processes has changed, reset the metrics instead."""
    own = states[trainer.global_rank] if len(states) == trainer.world_size else {}
    metric_states.restore(trainer, own.get(metric_states.KEY, {}))

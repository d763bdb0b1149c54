"""The plugin's hooks: logging of metric objects, whom they exchange with, and their states in checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leyden import Component, hookimpl
from leyden.plugins import StashKey
from leyden_torchmetrics import apart
from leyden_torchmetrics import states as metric_states

if TYPE_CHECKING:
    from leyden import Trainer

BEFORE = StashKey[Mapping[str, Mapping[str, Any]]]()  # the states of all metrics before the run


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the record with which ``self.log`` logs metric objects."""
    yield Component("record", metric_states.METRIC, "leyden_torchmetrics.record:MetricRecord")


@hookimpl
def leyden_rank_state(trainer: Trainer) -> dict[str, Any] | None:
    """Return the accumulated states of the module's metrics in this process; None if there are none.

    Metrics that validation logs are left out: a resumed run repeats the validation from its start, with empty states.
    """
    records = trainer.fit_loop.validation.results.records.values()
    validated = {id(getattr(record, "metric", None)) for record in records}
    states = metric_states.states_of(trainer.lightning_module, without=validated)
    return {metric_states.KEY: states} if states else None


@hookimpl
def leyden_restore_rank_state(trainer: Trainer, states: Sequence[Mapping[str, Any]]) -> None:
    """Restore the states of the metrics; if the number of processes has changed, reset the metrics instead."""
    own = states[trainer.global_rank] if len(states) == trainer.world_size else {}
    metric_states.restore(trainer.lightning_module, own.get(metric_states.KEY, {}))


@hookimpl
def setup(trainer: Trainer) -> None:
    """Remember the states of the module's metrics, in case the run fails."""
    trainer.run.stash[BEFORE] = copy.deepcopy(metric_states.states_of(trainer.lightning_module))


@hookimpl(trylast=True)
def on_exception(trainer: Trainer) -> None:
    """Put the metrics back as they were before the run; after all others, one of which may save a checkpoint."""
    apart.give_back(trainer)
    if BEFORE in trainer.run.stash:
        metric_states.restore(trainer.lightning_module, trainer.run.stash[BEFORE])


@hookimpl(tryfirst=True)
def on_fit_start(trainer: Trainer) -> None:
    """Have the metrics of a run of one process exchange nothing."""
    apart.keep_apart(trainer)


on_validation_start = on_test_start = on_predict_start = on_fit_start  # an evaluation alone has no start of a fit


@hookimpl(trylast=True)
def teardown(trainer: Trainer) -> None:
    """Let the metrics exchange again what they have."""
    apart.give_back(trainer)

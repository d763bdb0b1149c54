"""Stepping learning-rate schedulers when their interval has come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.monitoring import missing_metric
from leyden.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from leyden.trainer.run import Run


def step_schedulers(run: Run, interval: str, index: int, plateau: bool) -> None:
    """Step the schedulers of an interval in automatic optimisation.

    Args:
        run: Whose schedulers.
        interval: "step" or "epoch".
        index: The running batch of the epoch, or the running epoch, from 0.
        plateau: Whether it is the turn of those that take a metric (after validation) or of the others (before).
    """
    if not run.module.automatic_optimization:
        return
    for config in run.lr_scheduler_configs:
        if config.reduce_on_plateau != plateau or config.interval != interval or (index + 1) % config.frequency:
            continue
        value = None
        if plateau:
            metrics, monitor = run.metrics.callback_metrics, str(config.monitor)
            if monitor not in metrics:
                message = missing_metric(type(config.scheduler).__name__, monitor, metrics)
                if config.strict:
                    raise MisconfigurationException(message)
                rank_zero_warn(message, RuntimeWarning)
                continue
            value = metrics[monitor]
        with run.metrics.scope("lr_scheduler_step"):
            run.module.lr_scheduler_step(config.scheduler, value)
        run.progress.scheduler_steps += 1

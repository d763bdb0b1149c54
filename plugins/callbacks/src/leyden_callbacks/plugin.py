"""What this distribution brings: the callbacks by name, and the Trainer's default checkpoint and time limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from leyden import Component, hookimpl

if TYPE_CHECKING:
    from leyden.callback import Callback
    from leyden.trainer import Trainer

CALLBACKS = {
    "BasePredictionWriter": "prediction_writer",
    "Checkpoint": "checkpoint",
    "EarlyStopping": "early_stopping",
    "LambdaCallback": "lambda_callback",
    "LearningRateMonitor": "learning_rate_monitor",
    "ModelCheckpoint": "model_checkpoint",
    "Timer": "timer",
}


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The callbacks, each in its own file."""
    for name, module in CALLBACKS.items():
        yield Component("callback", name, f"leyden_callbacks.{module}:{name}")


@hookimpl
def leyden_default_callbacks(trainer: Trainer) -> Iterator[Callback]:
    """A checkpoint after every epoch, and the time limit of ``Trainer(max_time=...)``."""
    if trainer.wants("timer"):
        from leyden_callbacks.timer import Timer

        yield Timer(trainer.max_time)
    if trainer.wants("checkpoint"):
        from leyden_callbacks.model_checkpoint import ModelCheckpoint

        yield ModelCheckpoint()

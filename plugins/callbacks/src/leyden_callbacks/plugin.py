"""The plugin's hooks: callbacks by name and by default, ``ckpt_path="best"`` and "last", batch indices, warnings."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from leyden import Component, hookimpl

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer
    from leyden.callbacks import Callback

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
    """Make a ``ModelCheckpoint``, and a ``Timer`` for ``Trainer(max_time=...)``, where the Trainer wants them."""
    if trainer.wants("timer"):
        from leyden_callbacks.timer import Timer

        yield Timer(trainer.max_time)
    if trainer.wants("checkpoint"):
        from leyden_callbacks.model_checkpoint import ModelCheckpoint

        yield ModelCheckpoint()


@hookimpl
def leyden_find_checkpoint(trainer: Trainer, ckpt_path: str | None, fn: str) -> str | None:
    """Return the kept checkpoint that "best" or "last" means, or that a run without a model uses."""
    from leyden_callbacks import kept

    if ckpt_path is None:
        return kept.best_of_last_fit(trainer, fn)
    find = {"best": kept.best, "last": kept.last}.get(ckpt_path)
    return find(trainer) if find is not None else None


@hookimpl(wrapper=True, tryfirst=True)  # the last to put in a loader, so that no other takes its place
def leyden_prepare_loader(owner: Any, training: bool) -> Generator[None, Any, Any]:
    """Keep the indices of the batches of a prediction that a ``BasePredictionWriter`` writes."""
    loader = yield
    if training or owner.state.fn != "predict":
        return loader
    from leyden_callbacks.batch_indices import tracking
    from leyden_callbacks.prediction_writer import BasePredictionWriter

    return tracking(loader) if any(isinstance(one, BasePredictionWriter) for one in owner.callbacks) else loader


@hookimpl
def on_train_start(trainer: Trainer, pl_module: LightningModule) -> None:
    """Warn of possible mistakes in a fit."""
    from leyden_callbacks import hints

    hints.of_training(trainer, pl_module)


@hookimpl
def leyden_wrap_batches(trainer: Trainer, batches: Iterable[Any]) -> Iterable[Any] | None:
    """Warn of training that waits for data."""
    from leyden_callbacks import hints

    return hints.of_waiting(trainer, batches)


@hookimpl
def on_train_epoch_end(trainer: Trainer) -> None:
    """Warn of logged steps that no logger gets, and keep the last one for a short run."""
    from leyden_callbacks import hints, short_runs

    hints.of_first_epoch(trainer)
    short_runs.keep(trainer, counted=True)


@hookimpl
def on_train_end(trainer: Trainer) -> None:
    """Give the loggers the last step of a short run."""
    from leyden_callbacks import short_runs

    short_runs.send(trainer)


@hookimpl
def on_validation_start(trainer: Trainer) -> None:
    """Warn of possible mistakes in an evaluation; in a fit, keep the last step for a short run."""
    from leyden_callbacks import hints, short_runs

    hints.of_evaluation(trainer)
    if trainer.state.fn == "fit":
        short_runs.keep(trainer, counted=False)


@hookimpl
def on_test_start(trainer: Trainer) -> None:
    """Warn of possible mistakes in an evaluation."""
    from leyden_callbacks import hints

    hints.of_evaluation(trainer)


on_predict_start = on_test_start

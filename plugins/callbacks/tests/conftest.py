"""The small run that the tests use, in Leyden and, for comparison, in pytorch-lightning."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import leyden
from leyden.loggers import Logger
from leyden_testing.training import quiet_trainer

BATCHES = 6


def make_model(
    library: ModuleType, scores: list[float] | None = None, fail_at: int | None = None, validates: bool = True
) -> Any:
    """Make a linear model that logs ``train_loss`` by step, ``train_end`` by epoch, and ``score`` in each validation.

    Args:
        library: ``leyden`` or ``pytorch_lightning``.
        scores: The values of ``score``, one for each validation; without them ``score`` is not logged.
        fail_at: The batch, counted over all epochs, in which ``training_step`` raises.
        validates: Whether it has a ``validation_step``.
    """

    class Model(library.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = torch.nn.Linear(4, 2)
            self.validations = self.batches = 0

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            if self.batches == fail_at:
                raise ArithmeticError("the model broke")
            self.batches += 1
            loss = self.layer(batch).square().mean()
            self.log("train_loss", loss)
            return loss

        def on_train_epoch_end(self) -> None:
            self.log("train_end", float(self.current_epoch))

        if validates:

            def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
                self.layer(batch)

        def on_validation_epoch_end(self) -> None:
            if scores is None or self.trainer.sanity_checking:
                return
            self.log("score", scores[self.validations])
            self.validations += 1

        def test_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            self.layer(batch)

        def predict_step(self, batch: torch.Tensor, batch_idx: int, dataloader_idx: int = 0) -> torch.Tensor:
            return batch.sum(dim=1)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Model()


def make_loader(batches: int = BATCHES, batch_size: int = 2) -> Any:
    data = torch.arange(4.0 * batches * batch_size).reshape(-1, 4) / 100
    return torch.utils.data.DataLoader(data, batch_size=batch_size)


class MemoryLogger(Logger):
    """A logger for both libraries that keeps all metrics in memory."""

    def __init__(self, save_dir: str | None = None, name: str = "runs", version: int | str = 0) -> None:
        self._save_dir, self._name, self._version = save_dir, name, version
        self.logged: list[tuple[int | None, dict[str, float]]] = []
        self.saved: list[str] = []

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> int | str:
        return self._version

    @property
    def save_dir(self) -> str | None:
        return self._save_dir

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        return None

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self.saved.append(checkpoint_callback.best_model_path)


def fit(
    library: ModuleType,
    root: Any,
    callbacks: Any,
    *,
    model: Any = None,
    validate: bool = True,
    logger: Any = False,
    ckpt_path: Any = None,
    **arguments: Any,
) -> SimpleNamespace:
    """Train; return the trainer, the model, the written checkpoints (name, global step) and the exception or None."""
    written: list[tuple[str, int]] = []

    class Recording(library.Trainer):  # type: ignore[name-defined,misc]
        def save_checkpoint(self, filepath: Any, weights_only: bool | None = False, **options: Any) -> None:
            super().save_checkpoint(filepath, weights_only, **options)
            written.append((str(filepath).rpartition("/")[2], self.global_step))

    model = model or make_model(library, validates=validate)
    error = None
    with warnings.catch_warnings():
        if library is not leyden:
            warnings.simplefilter("ignore")
        options = {"devices": 1, "max_epochs": 2, "enable_checkpointing": None, **arguments}
        trainer = quiet_trainer(str(root), Recording, callbacks=callbacks, logger=logger, **options)
        try:
            trainer.fit(model, make_loader(), make_loader(2) if validate else None, ckpt_path=ckpt_path)
        except ArithmeticError as raised:
            error = raised
    return SimpleNamespace(trainer=trainer, model=model, written=written, error=error)


def plain(value: Any) -> Any:
    """Return a state with numbers in place of tensors and NaN as text, so that ``==`` works."""
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return "nan" if isinstance(value, float) and math.isnan(value) else value


@pytest.fixture
def said() -> Iterator[list[str]]:
    """A list of logged messages, which grows while the test runs."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Keep()
    logging.getLogger("leyden").addHandler(handler)
    yield messages
    logging.getLogger("leyden").removeHandler(handler)


@pytest.fixture
def small() -> SimpleNamespace:
    """The functions and classes above, for the tests."""
    return SimpleNamespace(
        make_model=make_model, make_loader=make_loader, MemoryLogger=MemoryLogger, fit=fit, plain=plain, batches=BATCHES
    )

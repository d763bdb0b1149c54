"""For Leyden's own tests: small models, their data, and a logger that keeps values in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import leyden as pl
from leyden.loggers import Logger
from leyden_testing.training import loader, quiet_trainer


class SmallModel(pl.LightningModule):
    """A linear layer for batches of shape (rows, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, batch: Tensor) -> Any:
        """Return the layer's output, of shape (rows, 1)."""
        return self.layer(batch)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss."""
        return self(batch).square().mean()

    def configure_optimizers(self) -> Any:
        """Return SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


class EveryStep(SmallModel):
    """A small model that also has a validation step and a test step."""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss."""
        return self(batch).square().mean()

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss."""
        return self(batch).square().mean()


class Batches:
    """A loader of batches of ones for :class:`SmallModel` that counts the batches it yields.

    Args:
        count: The number of batches in a pass.

    Attributes:
        drawn: The number of batches yielded, in all passes together.
    """

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self.drawn = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Any:
        for _ in range(self.count):
            self.drawn += 1
            yield torch.ones(3, 2)


class LoggingModel(pl.LightningModule):
    """A linear model that trains, tests and predicts, and logs its losses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        """Return predictions of shape (rows, 2) for rows of shape (rows, 4)."""
        return self.layer(x)

    def loss(self, batch: Any) -> Tensor:
        """Return the mean squared error of a batch."""
        x, y = batch
        return nn.functional.mse_loss(self(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Log and return the loss."""
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """Log the loss."""
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the predictions for a batch."""
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        """Return SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ValidatedModel(LoggingModel):
    """A :class:`LoggingModel` with a validation step."""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Log the loss."""
        self.log("val_loss", self.loss(batch))


class RecordingLogger(Logger):
    """A logger that keeps everything in memory.

    Attributes:
        logged: The step and the metrics of each call of ``log_metrics``.
        hyperparameters: The parameters of each call of ``log_hyperparams``.
        ended: The status of each call of ``finalize``.
    """

    name, version = "recording", 0

    def __init__(self) -> None:
        self.logged: list[tuple[int | None, dict[str, float]]] = []
        self.hyperparameters: list[dict[str, Any]] = []
        self.ended: list[str] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep the step and the metrics."""
        self.logged.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Keep the parameters."""
        self.hyperparameters.append(dict(params))

    def finalize(self, status: str) -> None:
        """Keep the status."""
        self.ended.append(status)

    def values(self, name: str) -> list[tuple[int | None, float]]:
        """Return the step and the value of each time that the metric ``name`` was logged."""
        return [(step, metrics[name]) for step, metrics in self.logged if name in metrics]


class Unsized:
    """A loader of the given batches without a length."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


class Given(Unsized):
    """A loader of the given batches."""

    def __len__(self) -> int:
        return len(self.batches)


def rows(batches: int = 4, batch_size: int = 2, **options: Any) -> DataLoader[Any]:
    """Return a loader of random rows for :class:`LoggingModel`, which are always the same for the same size.

    Args:
        batches: The number of batches.
        batch_size: The number of rows in a batch.
        options: Further arguments of the DataLoader.
    """
    return loader(batches * batch_size, batch_size, **options)


def logged_fit(
    tmp_path: Path, model: pl.LightningModule, batches: Any = 4, validation: Any = None, **options: Any
) -> tuple[Any, Any]:
    """Train a model with a :class:`RecordingLogger`.

    Args:
        tmp_path: The Trainer's ``default_root_dir``.
        model: The model.
        batches: The training loader, or its number of batches.
        validation: The validation loader.
        options: Further arguments of the Trainer; ``logger`` replaces the recording logger.

    Returns:
        The logger and the Trainer.
    """
    logger = options.pop("logger", None) or RecordingLogger()
    trainer = quiet_trainer(tmp_path, logger=logger, log_every_n_steps=1, **options)
    trainer.fit(model, batches if not isinstance(batches, int) else rows(batches), validation)
    return logger, trainer


def model_that(**hooks: Any) -> Any:
    """Return a :class:`LoggingModel` with some methods replaced; its own training step logs nothing.

    Args:
        hooks: The new methods by name.
    """

    def training_step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.loss(batch)
        return loss

    return type("Model", (LoggingModel,), {"training_step": training_step, **hooks})()

"""For Leyden's own tests: models that take no time, their data, and a logger that keeps what it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import leyden as pl
from leyden.interfaces.logger import Logger
from leyden_testing.training import loader, quiet_trainer


class SmallModel(pl.LightningModule):
    """Fits a line to batches of shape (rows, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, batch: Tensor) -> Any:
        """The line at each row."""
        return self.layer(batch)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """The loss."""
        return self(batch).square().mean()

    def configure_optimizers(self) -> Any:
        """Stochastic gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


class EveryStep(SmallModel):
    """Has a step for every stage."""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """The loss."""
        return self(batch).square().mean()

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """The loss."""
        return self(batch).square().mean()


class Batches:
    """Batches of ones for :class:`SmallModel` that count how many were drawn.

    Args:
        count: How many batches a pass has.

    Attributes:
        drawn: How many were drawn, over all passes.
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
        """What it says of rows of shape (rows, 4)."""
        return self.layer(x)

    def loss(self, batch: Any) -> Tensor:
        """The mean squared error of a batch."""
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
        """What it says."""
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        """Stochastic gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ValidatedModel(LoggingModel):
    """The same with a validation step."""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Log the loss."""
        self.log("val_loss", self.loss(batch))


class RecordingLogger(Logger):
    """Keeps everything.

    Attributes:
        logged: Each call of ``log_metrics``: the step and the metrics.
        hyperparameters: Each call of ``log_hyperparams``.
        ended: Each call of ``finalize``.
    """

    name, version = "recording", 0

    def __init__(self) -> None:
        self.logged: list[tuple[int | None, dict[str, float]]] = []
        self.hyperparameters: list[dict[str, Any]] = []
        self.ended: list[str] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep them."""
        self.logged.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Keep them."""
        self.hyperparameters.append(dict(params))

    def finalize(self, status: str) -> None:
        """Keep how the run ended."""
        self.ended.append(status)

    def values(self, name: str) -> list[tuple[int | None, float]]:
        """The step and value of each time that ``name`` was logged."""
        return [(step, metrics[name]) for step, metrics in self.logged if name in metrics]


class Unsized:
    """A loader of exactly these batches that does not know its length."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


class Given(Unsized):
    """A loader of exactly these batches."""

    def __len__(self) -> int:
        return len(self.batches)


def rows(batches: int = 4, batch_size: int = 2, **options: Any) -> DataLoader[Any]:
    """A loader of random rows for :class:`LoggingModel`, the same for every call of the same size.

    Args:
        batches: How many batches.
        batch_size: Rows of a batch.
        options: Further arguments of the DataLoader.
    """
    return loader(batches * batch_size, batch_size, **options)


def logged_fit(
    tmp_path: Path, model: pl.LightningModule, batches: Any = 4, validation: Any = None, **options: Any
) -> tuple[Any, Any]:
    """Train with a recording logger.

    Args:
        tmp_path: Where the run may write.
        model: What to train.
        batches: A loader, or how many batches it trains on.
        validation: The loader of validation.
        options: Further arguments of the Trainer; ``logger`` takes the recording one's place.

    Returns:
        The logger and the Trainer.
    """
    logger = options.pop("logger", None) or RecordingLogger()
    trainer = quiet_trainer(tmp_path, logger=logger, log_every_n_steps=1, **options)
    trainer.fit(model, batches if not isinstance(batches, int) else rows(batches), validation)
    return logger, trainer


def model_that(**hooks: Any) -> Any:
    """A :class:`LoggingModel` with these methods instead of its own; it logs nothing else."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.loss(batch)
        return loss

    return type("Model", (LoggingModel,), {"training_step": training_step, **hooks})()

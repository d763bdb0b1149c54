"""A model that logs, random rows for it, and a logger that keeps what it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from small_model import quiet_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl
from leyden.interfaces.logger import Logger

__all__ = [
    "Given", "LoggingModel", "RecordingLogger", "Unsized", "ValidatedModel", "logged_fit", "model_that",
    "quiet_trainer", "rows", "same_weights", "weights",
]  # fmt: skip


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
        self.logged.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.hyperparameters.append(dict(params))

    def finalize(self, status: str) -> None:
        self.ended.append(status)

    def values(self, name: str) -> list[tuple[int | None, float]]:
        """The step and value of each time that ``name`` was logged."""
        return [(step, metrics[name]) for step, metrics in self.logged if name in metrics]


class LoggingModel(pl.LightningModule):
    """A linear model that trains, tests and predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ValidatedModel(LoggingModel):
    """The same with a validation step."""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", self.loss(batch))


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
    """A loader over random rows, the same for every call of the same size."""
    generator = torch.Generator().manual_seed(batches)
    count = batches * batch_size
    data = TensorDataset(torch.randn(count, 4, generator=generator), torch.randn(count, 2, generator=generator))
    return DataLoader(data, batch_size=batch_size, **options)


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's state."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_weights(one: nn.Module | dict[str, Tensor], other: nn.Module | dict[str, Tensor]) -> bool:
    """Whether two states are equal to the last bit."""
    first, second = (s.state_dict() if isinstance(s, nn.Module) else s for s in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def logged_fit(
    tmp_path: Path, model: pl.LightningModule, batches: Any = 4, validation: Any = None, **options: Any
) -> tuple[Any, pl.Trainer]:
    """Train on a loader, or on so many batches, with a recording logger; returns the logger and the Trainer."""
    logger = options.pop("logger", None) or RecordingLogger()
    trainer = quiet_trainer(tmp_path, logger=logger, log_every_n_steps=1, **options)
    trainer.fit(model, batches if not isinstance(batches, int) else rows(batches), validation)
    return logger, trainer


def model_that(**hooks: Any) -> Any:
    """A model with these methods instead of its own; it logs nothing else."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    return type("Model", (LoggingModel,), {"training_step": training_step, **hooks})()

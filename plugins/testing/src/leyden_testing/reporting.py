"""For Leyden's own tests: a model that remembers its rows, and Trainers of two processes that each write a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # DistributedDataParallel imports it, and otherwise each forked process would do so
from torch import Tensor, nn
from torch.utils.data import DataLoader

import leyden as pl
from leyden_testing import training


class Model(pl.LightningModule):
    """A model with two layers that remembers the rows of each step.

    Args:
        optimizer: A function that makes the optimizer from the parameters; by default SGD.

    Attributes:
        seen: The row numbers of each step, by stage: "train", "val" or "test".
    """

    def __init__(self, optimizer: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        self.make = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        self.seen: dict[str, list[list[int]]] = {"train": [], "val": [], "test": []}

    def loss(self, batch: Any, stage: str) -> Tensor:
        """Remember the rows of a batch for a stage, and return the mean squared error."""
        x, y, rows = batch
        self.seen[stage].append(rows.tolist())
        return nn.functional.mse_loss(self.layer(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Log and return the loss."""
        loss = self.loss(batch, "train")
        self.log("train_loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss."""
        self.log("test_loss", self.loss(batch, "test"), sync_dist=True)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the row numbers of a batch."""
        return batch[2]

    def configure_optimizers(self) -> Any:
        """Return the optimizer of all parameters."""
        return self.make(self.parameters())


class Validated(Model):
    """A :class:`Model` with a validation step."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss."""
        self.log("val_loss", self.loss(batch, "val"), sync_dist=True)


class Reporter(pl.Callback):
    """Writes a report in each process when a run ends, such as its steps, metrics and weights.

    Args:
        directory: The directory for the reports.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the report, including the module's attribute ``report`` if it has one."""
        report = {
            "rank": trainer.global_rank,
            "world": trainer.world_size,
            "steps": trainer.global_step,
            "batches": trainer.progress.total_batches,
            "seen": getattr(pl_module, "seen", {}),
            "log_dir": trainer.log_dir,
            "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
            "weights": {name: value.tolist() for name, value in pl_module.state_dict().items()},
            **getattr(pl_module, "report", {}),
        }
        self.directory.mkdir(exist_ok=True)
        (self.directory / f"{stage}-{trainer.global_rank}.json").write_text(json.dumps(report))

    def reports(self, stage: str = "fit") -> list[dict[str, Any]]:
        """Return the reports of all processes for a stage, in the order of their ranks."""
        paths = sorted(self.directory.glob(f"{stage}-*.json"))
        return [json.loads(path.read_text()) for path in paths]


def loader(count: int, batch_size: int = 2, **options: Any) -> DataLoader[Any]:
    """Return a loader of numbered rows for :class:`Model`.

    Args:
        count: The number of rows.
        batch_size: The number of rows in a batch.
        options: Further arguments of the DataLoader.
    """
    return training.loader(count, batch_size, numbered=True, **options)


def quiet(tmp_path: Path, **options: Any) -> tuple[Any, Reporter]:
    """Return a quiet Trainer for two forked processes, and its reporter.

    Args:
        tmp_path: The Trainer's ``default_root_dir``, where the reports are written.
        options: Further arguments of the Trainer, which replace the defaults.
    """
    reporter = Reporter(tmp_path)
    arguments: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork", "log_every_n_steps": 1, **options}
    arguments["callbacks"] = [*arguments.get("callbacks", ()), reporter]
    return training.quiet_trainer(tmp_path, **arguments), reporter


def alone(tmp_path: Path, **options: Any) -> Any:
    """Return the Trainer of :func:`quiet` for one process.

    Args:
        tmp_path: The Trainer's ``default_root_dir``, where the report is written.
        options: Further arguments of the Trainer, which replace the defaults.
    """
    return quiet(tmp_path, **{"devices": 1, "strategy": "auto", **options})[0]

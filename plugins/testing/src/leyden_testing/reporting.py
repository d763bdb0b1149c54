"""For Leyden's own tests: a model that remembers its rows, and Trainers of two processes of which each reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # DistributedDataParallel imports it, and each forked process would anew
from torch import Tensor, nn
from torch.utils.data import DataLoader

import leyden as pl
from leyden_testing import training


class Model(pl.LightningModule):
    """A linear model that remembers which rows it saw in each step.

    Args:
        optimizer: Makes the optimizer from parameters.

    Attributes:
        seen: The numbers of the rows of each step, by stage: "train", "val" and "test".
    """

    def __init__(self, optimizer: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        self.make = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        self.seen: dict[str, list[list[int]]] = {"train": [], "val": [], "test": []}

    def loss(self, batch: Any, stage: str) -> Tensor:
        """The mean squared error of a batch, whose rows are remembered as those of a stage."""
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
        """The rows' numbers."""
        return batch[2]

    def configure_optimizers(self) -> Any:
        """The chosen optimizer of all parameters."""
        return self.make(self.parameters())


class Validated(Model):
    """The same with a validation step."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss."""
        self.log("val_loss", self.loss(batch, "val"), sync_dist=True)


class Reporter(pl.Callback):
    """Writes down in each process, when a run ends there, what it did.

    Args:
        directory: Where to.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write it down."""
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
        """What each process wrote, in the order of their ranks."""
        paths = sorted(self.directory.glob(f"{stage}-*.json"))
        return [json.loads(path.read_text()) for path in paths]


def loader(count: int, batch_size: int = 2, **options: Any) -> DataLoader[Any]:
    """A loader of numbered rows for :class:`Model`.

    Args:
        count: How many rows.
        batch_size: Rows of a batch.
        options: Further arguments of the DataLoader.
    """
    return training.loader(count, batch_size, numbered=True, **options)


def quiet(tmp_path: Path, **options: Any) -> tuple[Any, Reporter]:
    """A quiet Trainer of two forked processes and its reporter.

    Args:
        tmp_path: Where the reports are written.
        options: Arguments of the Trainer, in the place of these or beside them.
    """
    reporter = Reporter(tmp_path)
    arguments: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork", "log_every_n_steps": 1, **options}
    arguments["callbacks"] = [*arguments.get("callbacks", ()), reporter]
    return training.quiet_trainer(tmp_path, **arguments), reporter


def alone(tmp_path: Path, **options: Any) -> Any:
    """The same Trainer in one process.

    Args:
        tmp_path: Where the report is written.
        options: Arguments of the Trainer.
    """
    return quiet(tmp_path, **{"devices": 1, "strategy": "auto", **options})[0]

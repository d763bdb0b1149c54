"""A small model, rows for it, and a way to train it in forked processes and see what each of them did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # DistributedDataParallel imports it, and each forked process would anew
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl


class Rows(TensorDataset):
    """Random rows; the first column is the row's number."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(count)
        x = torch.randn(count, 4, generator=generator)
        super().__init__(x, torch.randn(count, 2, generator=generator), torch.arange(count))


class Model(pl.LightningModule):
    """A linear model that remembers which rows it saw in each step.

    Args:
        optimizer: Makes the optimizer from parameters.
    """

    def __init__(self, optimizer: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        self.make = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        self.seen: dict[str, list[list[int]]] = {"train": [], "val": [], "test": []}

    def loss(self, batch: Any, stage: str) -> Tensor:
        x, y, rows = batch
        self.seen[stage].append(rows.tolist())
        return nn.functional.mse_loss(self.layer(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch, "train")
        self.log("train_loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch, "test"), sync_dist=True)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return batch[2]

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


class Validated(Model):
    """The same with a validation step."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch, "val"), sync_dist=True)


class Reporter(pl.Callback):
    """Writes down in each process, when a run ends there, what it did.

    Args:
        directory: Where to.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
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
    return DataLoader(Rows(count), batch_size, **options)


def quiet(tmp_path: Path, **options: Any) -> tuple[pl.Trainer, Reporter]:
    """A Trainer of two forked processes that logs, saves and shows nothing, and its reporter."""
    reporter = Reporter(tmp_path)
    arguments: dict[str, Any] = {
        "accelerator": "cpu", "devices": 2, "strategy": "ddp_fork", "max_epochs": 1, "logger": False,
        "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
        "default_root_dir": tmp_path, "callbacks": [], "log_every_n_steps": 1,
    }  # fmt: skip
    arguments.update(options)
    arguments["callbacks"] = [*arguments["callbacks"], reporter]
    return pl.Trainer(**arguments), reporter


def alone(tmp_path: Path, **options: Any) -> pl.Trainer:
    """The same Trainer in one process."""
    return quiet(tmp_path, **{"devices": 1, "strategy": "auto", **options})[0]


def close(one: nn.Module, other: nn.Module, tolerance: float = 1e-6) -> bool:
    """Whether two modules have the same weights, but for the order in which floating-point numbers were added."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(a.double(), b.double(), rtol=0, atol=tolerance) for a, b in pairs)


def equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have the same weights to the last bit."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)

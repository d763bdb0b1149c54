"""A small model and one that builds nothing at first, and Trainers of two forked processes under DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import leyden as pl
from leyden_deepspeed.strategy import DeepSpeedStrategy
from leyden_testing.training import quiet_trainer


def adamw(parameters: Any) -> Any:
    return torch.optim.AdamW(parameters, lr=0.05)


class Model(pl.LightningModule):
    """Two layers, a parameter of its own, and one that is not trained.

    Args:
        make: Makes what ``configure_optimizers`` returns from parameters.
        dropout: The share that dropout leaves out.
    """

    def __init__(self, make: Any = adamw, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.make, self.dropout = make, dropout
        self.build()

    def build(self) -> None:
        self.layers = nn.Sequential(nn.Linear(4, 9), nn.Dropout(self.dropout), nn.Tanh(), nn.Linear(9, 2))
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.fixed = nn.Parameter(torch.tensor([0.5, -0.25]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * self.scale + self.fixed

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), sync_dist=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return self.make([p for p in self.parameters() if p.requires_grad])


class BuiltLater(Model):
    """The same, built in ``configure_model``."""

    def build(self) -> None:
        self.layers = None

    def configure_model(self) -> None:
        if self.layers is None:
            torch.manual_seed(0)
            super().build()


def quiet(tmp_path: Path, **options: Any) -> pl.Trainer:
    """A quiet Trainer for two epochs."""
    return quiet_trainer(tmp_path, **{"max_epochs": 2, **options})


def together(tmp_path: Path, strategy: Any = None, **options: Any) -> pl.Trainer:
    """One of two forked processes.

    Args:
        tmp_path: Its directory.
        strategy: Arguments for the strategy.
        options: For the Trainer.
    """
    made = DeepSpeedStrategy(start_method="fork", **(strategy or {}))
    return quiet(tmp_path, devices=2, strategy=made, **options)

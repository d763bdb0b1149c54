"""A model that takes no time, its data, and a Trainer that prints, logs and saves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import leyden as pl


class SmallModel(pl.LightningModule):
    """Fits a line."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, batch: Tensor) -> Tensor:
        return self.layer(batch)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class EveryStep(SmallModel):
    """Has a step for every stage."""

    def validation_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(batch).square().mean()

    def test_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(batch).square().mean()


class Batches:
    """An iterable of ``count`` batches that counts how many were drawn.

    Args:
        count: How many batches a pass has.
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


def quiet_trainer(root: Path, **options: Any) -> pl.Trainer:
    """A Trainer on the host processor with everything turned off that is not asked for."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": root,
    }
    return pl.Trainer(**{**defaults, **options})

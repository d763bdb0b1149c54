"""A small model for loaders of `leyden_testing`, and Trainers of every strategy that log, save and show nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import leyden as pl
from leyden_ddp.strategy import DDPStrategy
from leyden_sharded.fsdp import FSDPStrategy
from leyden_sharded.zero_1 import ZeRO1Strategy
from leyden_testing.training import quiet_trainer

STRATEGIES = {
    "ddp": lambda **options: DDPStrategy(**options),
    "zero_1": lambda **options: ZeRO1Strategy(**options),
    "zero_2": lambda **options: FSDPStrategy(sharding_strategy="SHARD_GRAD_OP", **options),
    "zero_3": lambda **options: FSDPStrategy(**options),
    "zero_3 by layer": lambda **options: FSDPStrategy(auto_wrap_policy={nn.Linear}, **options),
    "zero_3_offload": lambda **options: FSDPStrategy(auto_wrap_policy=50, cpu_offload=True, **options),
}
FSDP = [name for name in STRATEGIES if name not in ("ddp", "zero_1")]


class Model(pl.LightningModule):
    """Two layers and a parameter of its own.

    Args:
        optimizer: Makes the optimizer from parameters.
    """

    def __init__(self, optimizer: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 2))
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0])[:2])
        self.make = optimizer or partial(torch.optim.SGD, lr=0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * self.scale

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

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


def quiet(root: Path, strategy: Any = "auto", devices: int = 1, **options: Any) -> pl.Trainer:
    """A quiet Trainer; ``strategy`` may be a name of STRATEGIES."""
    strategy = STRATEGIES[strategy]() if isinstance(strategy, str) and strategy in STRATEGIES else strategy
    return quiet_trainer(root, strategy=strategy, devices=devices, **options)


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The greatest difference of any element of two states."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)

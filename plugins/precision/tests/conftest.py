"""The small run that the tests use, on every device that the machine has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden_testing.training import quiet_trainer

CUDA = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest) -> str:
    """The accelerator's name, which is also the device type."""
    return str(request.param)


def make_model_class(library: ModuleType) -> Any:
    """Make a model with dropout and batch normalisation that logs its loss; autocast keeps one layer in float32."""

    class Model(library.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))

        def forward(self, x: Tensor) -> Any:
            return self.layers(x)

        def loss(self, batch: Any) -> Tensor:
            return nn.functional.mse_loss(self(batch[0]), batch[1])

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self(batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    return Model


@pytest.fixture
def model_class() -> Callable[[ModuleType], Any]:
    """A function that makes the model's class for Leyden or pytorch-lightning."""
    return make_model_class


@pytest.fixture
def Model() -> Any:
    """The model's class in Leyden."""
    return make_model_class(leyden)


@pytest.fixture
def loader() -> Any:
    """Six batches of four rows."""
    generator = torch.Generator().manual_seed(1)
    rows, targets = torch.randn(24, 4, generator=generator), torch.randn(24, 2, generator=generator)
    return DataLoader(TensorDataset(rows, targets), batch_size=4)


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Any]:
    """A function that makes a quiet Trainer for two epochs."""

    def make(device: str = "cpu", library: ModuleType = leyden, **arguments: Any) -> Any:
        defaults = {"accelerator": device, "devices": 1, "max_epochs": 2}
        return quiet_trainer(tmp_path, library.Trainer, **{**defaults, **arguments})

    return make

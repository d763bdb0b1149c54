"""Small models and datasets, for tests, bug reports and trying things out.

Sizes, initial weights and random numbers are those of Lightning's classes of the same names, so runs with the same
seed give the same numbers in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from leyden import LightningDataModule, LightningModule

# The stages that need each part of the data.
STAGES = {"train": ("fit",), "val": ("fit", "validate"), "test": ("test",), "predict": ("predict",)}


class RandomDataset(Dataset[Any]):
    """Samples of normally distributed noise, drawn once.

    Args:
        size: The number of features of a sample.
        length: The number of samples.
    """

    def __init__(self, size: int, length: int) -> None:
        self.len = length
        self.data = torch.randn(length, size)

    def __getitem__(self, index: int) -> Any:
        return self.data[index]

    def __len__(self) -> int:
        return self.len


class RandomDictDataset(RandomDataset):
    """Like :class:`RandomDataset`, but a sample is ``{"a": x, "b": x + 2}``."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"a": self.data[index], "b": self.data[index] + 2}


class RandomIterableDataset(IterableDataset[Tensor]):
    """Samples of normally distributed noise, drawn anew in every pass.

    Args:
        size: The number of features of a sample.
        count: The number of samples in a pass.
    """

    def __init__(self, size: int, count: int) -> None:
        self.count = count
        self.size = size

    def __iter__(self) -> Iterator[Tensor]:
        return (torch.randn(self.size) for _ in range(self.count))


class RandomIterableDatasetWithLen(RandomIterableDataset):
    """Like :class:`RandomIterableDataset`, but with a length."""

    def __len__(self) -> int:
        return self.count


class BoringModel(LightningModule):
    """A linear layer from 32 features to 2, trained by SGD to output ones, with its own dataloaders.

    Attributes:
        layer: The linear layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output of shape (batch, 2) for an input of shape (batch, 32)."""
        output: Tensor = self.layer(x)
        return output

    def loss(self, preds: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the mean squared error between ``preds`` and ``labels``; the labels are ones by default."""
        return functional.mse_loss(preds, torch.ones_like(preds) if labels is None else labels)

    def step(self, batch: Any) -> Tensor:
        """Return the loss of a batch."""
        return self.loss(self(batch))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return ``{"loss": loss}``."""
        return {"loss": self.step(batch)}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Return ``{"x": loss}``."""
        return {"x": self.step(batch)}

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """Return ``{"y": loss}``."""
        return {"y": self.step(batch)}

    def configure_optimizers(self) -> Any:
        """Return SGD with a learning rate of 0.1 and a scheduler that divides it by 10 after each epoch."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)]

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return a loader with 64 samples."""
        return DataLoader(RandomDataset(32, 64))

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Return a loader with 64 samples."""
        return DataLoader(RandomDataset(32, 64))

    def test_dataloader(self) -> DataLoader[Tensor]:
        """Return a loader with 64 samples."""
        return DataLoader(RandomDataset(32, 64))

    def predict_dataloader(self) -> DataLoader[Tensor]:
        """Return a loader with 64 samples."""
        return DataLoader(RandomDataset(32, 64))


class ManualOptimBoringModel(BoringModel):
    """Like :class:`BoringModel`, but with manual optimisation."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Step the optimizer and return the loss."""
        optimizer = self.optimizers()
        loss = self.step(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


class _DataModule(LightningDataModule):
    """Makes the datasets of a stage as attributes and a loader for each; subclasses implement :meth:`part`.

    Attributes:
        attribute: The template of the attributes' names; the field is the name of the part of the data.
    """

    attribute = "random_{}"

    def part(self, name: str) -> Any:
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Make the datasets that the stage needs."""
        for name, stages in STAGES.items():
            if stage in stages:
                setattr(self, self.attribute.format(name), self.part(name))

    def loader(self, name: str) -> Any:
        part = getattr(self, self.attribute.format(name))
        return [DataLoader(dataset) for dataset in part] if isinstance(part, list) else DataLoader(part)

    def train_dataloader(self) -> Any:
        """Return the training loader, or a list of loaders."""
        return self.loader("train")

    def val_dataloader(self) -> Any:
        """Return the validation loader, or a list of loaders."""
        return self.loader("val")

    def test_dataloader(self) -> Any:
        """Return the test loader, or a list of loaders."""
        return self.loader("test")

    def predict_dataloader(self) -> Any:
        """Return the prediction loader, or a list of loaders."""
        return self.loader("predict")


class BoringDataModule(_DataModule):
    """A data module with 64 samples of 32 features for each stage.

    Attributes:
        random_full: All 256 samples; ``random_train``, ``random_val``, ``random_test`` and ``random_predict`` are
            one quarter each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.random_full = RandomDataset(32, 64 * 4)

    def part(self, name: str) -> Subset[Tensor]:
        """Return one quarter of the samples."""
        start = list(STAGES).index(name) * 64
        return Subset(self.random_full, range(start, start + 64))


class BoringDataModuleNoLen(_DataModule):
    """Like :class:`BoringDataModule`, but without lengths, and with 512, 128, 256 and 64 samples."""

    def part(self, name: str) -> RandomIterableDataset:
        """Return a dataset without a length."""
        return RandomIterableDataset(32, {"train": 512, "val": 128, "test": 256, "predict": 64}[name])


class IterableBoringDataModule(_DataModule):
    """A data module with two loaders of 4 features for each stage: one with a length, one without.

    Attributes:
        train_datasets: The two training datasets, of 16 samples each. ``val_datasets`` have 32 samples,
            ``test_datasets`` 64 and ``predict_datasets`` 128.
    """

    attribute = "{}_datasets"

    def part(self, name: str) -> list[Dataset[Tensor]]:
        """Return a dataset with a length and one without."""
        samples = {"train": 16, "val": 32, "test": 64, "predict": 128}[name]
        return [RandomDataset(4, samples), RandomIterableDataset(4, samples)]


class DemoModel(LightningModule):
    """A linear layer with ReLU; the loss is the sum of its outputs. It has no dataloaders.

    Args:
        out_dim: The number of outputs of the layer.
        learning_rate: Adam's learning rate.
    """

    def __init__(self, out_dim: int = 10, learning_rate: float = 0.02) -> None:
        super().__init__()
        self.l1 = nn.Linear(32, out_dim)
        self.learning_rate = learning_rate

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs of shape (batch, out_dim) for samples of 32 numbers in any shape."""
        return torch.relu(self.l1(x.flatten(1)))

    def training_step(self, batch: Any, batch_nb: int) -> Tensor:
        """Return the sum of the outputs."""
        output: Tensor = self(batch)
        return output.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class Net(nn.Module):
    """A classifier for 10 digits: two convolutions and two linear layers, for images of shape (batch, 1, 28, 28)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(64 * 12 * 12, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return log-probabilities of shape (batch, 10)."""
        x = functional.relu(self.conv2(functional.relu(self.conv1(x))))
        x = self.dropout1(functional.max_pool2d(x, 2)).flatten(1)
        x = self.dropout2(functional.relu(self.fc1(x)))
        return functional.log_softmax(self.fc2(x), dim=1)

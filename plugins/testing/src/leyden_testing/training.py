"""Helpers for runs in checks: a small model, its data, a quiet Trainer, and a reference device and logger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl
from leyden.accelerators import Accelerator
from leyden.loggers import Logger

FEATURES, TARGETS = 4, 2
Series = dict[str, list[tuple[int, float]]]
"""The metrics that a logger wrote: name to (step, value) pairs in order."""


class Host(Accelerator):
    """The CPU, as a reference for other accelerators; its devices are processes.

    The kit has its own CPU accelerator, so that it does not depend on a plugin that it checks.
    """

    device_type = "cpu"

    @classmethod
    def is_available(cls) -> bool:
        """Return True."""
        return True

    @classmethod
    def auto_device_count(cls) -> int:
        """Return 1, for one process."""
        return 1

    @classmethod
    def parse_devices(cls, devices: int | str | Sequence[int]) -> list[int]:
        """The numbers of the processes."""
        return list(range(1 if devices == "auto" else int(str(devices))))

    @classmethod
    def get_parallel_devices(cls, devices: Sequence[int]) -> list[torch.device]:
        """Return the same device for each process."""
        return [torch.device("cpu")] * len(devices)

    def setup_device(self, device: torch.device) -> None:
        """Do nothing, since the CPU needs no set-up."""

    def get_rng_state(self, device: torch.device) -> Tensor | None:
        """Return None, since the CPU's random state is PyTorch's own."""
        return None


class Model(pl.LightningModule):
    """A model with two layers that logs a loss in every stage.

    Args:
        optimizer: A function that makes the optimizer from the parameters; by default SGD with momentum.
        dropout: The probability with which hidden values are zeroed in training.
    """

    def __init__(self, optimizer: Any = None, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.random.get_rng_state()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, 8), nn.Tanh(), *([nn.Dropout(dropout)] if dropout else []), nn.Linear(8, TARGETS)
        )
        torch.random.set_rng_state(generator)
        self.make = optimizer or partial(
            torch.optim.SGD, lr=0.1, momentum=0.9
        )  # a partial can be pickled, which some strategies need
        self.devices_seen: set[str] = set()
        self.rows_seen: list[float] = []

    def forward(self, x: Tensor) -> Any:
        """Return predictions of shape (batch, 2).

        Args:
            x: Rows of shape (batch, 4).
        """
        return self.layers(x)

    def loss(self, batch: Any) -> Tensor:
        """Return the mean loss of a batch, or of the batches of several loaders in a dict or list."""
        if isinstance(batch, Mapping):
            batch = list(batch.values())
        if not isinstance(batch[0], Tensor):
            losses = [self.loss(part) for part in batch if part is not None]
            return torch.stack(losses).mean()
        self.devices_seen.update(tensor.device.type for tensor in batch)
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Log and return the loss."""
        loss = self.loss(batch)
        if isinstance(batch, (list, tuple)):
            self.rows_seen.extend(batch[0][:, 0].tolist())
        self.log("train_loss", loss, on_step=True, on_epoch=True, sync_dist=True, batch_size=4)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the loss."""
        self.log("val_loss", self.loss(batch), sync_dist=True, batch_size=len(batch[0]))

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the loss."""
        self.log("test_loss", self.loss(batch), sync_dist=True, batch_size=len(batch[0]))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Return the predictions for a batch."""
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        """Return the optimizer of all parameters."""
        return self.make(self.parameters())


class FailingModel(Model):
    """A model that raises a ValueError in its second training batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Raise the error in the second batch, otherwise train."""
        if batch_idx == 1:
            raise ValueError("the model's own error")
        return super().training_step(batch, batch_idx)


class Recorder(Logger):
    """A logger that keeps metrics in memory, for comparison.

    Attributes:
        series: The (step, value) pairs of each metric.
        sent: The step and the metrics of each call, in order.
    """

    name, version = "recorder", 0

    def __init__(self) -> None:
        self.series: Series = {}
        self.sent: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep each metric's step and value."""
        self.sent.append((step or 0, dict(metrics)))
        for name, value in metrics.items():
            self.series.setdefault(name, []).append((step or 0, float(value)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


class SaveAmid(pl.Callback):
    """Saves a checkpoint in the middle of an epoch of the kit's runs, and keeps a copy of the weights at that time.

    Args:
        path: The path to save to.
        step: The number of optimizer steps after which to save.
    """

    def __init__(self, path: Path, step: int = 6) -> None:
        self.path = str(path)
        self.step = step
        self.weights: dict[str, Tensor] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after that step."""
        if trainer.global_step == self.step and not self.weights:
            self.weights = weights(pl_module)
            trainer.save_checkpoint(self.path)


class SaveAfterEpoch(pl.Callback):
    """Saves a checkpoint at the end of the first epoch, from which a run with any number of processes can resume.

    Args:
        path: The path to save to.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.weights: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save at the end of the first epoch."""
        if trainer.current_epoch == 0:
            self.weights = weights(pl_module)
            trainer.save_checkpoint(self.path)


class Rows(TensorDataset):
    """A dataset of random rows and targets, which are always the same for the same count.

    Args:
        count: The number of rows.
        numbered: Whether a sample has the row's number as its third part.
    """

    def __init__(self, count: int, numbered: bool = False) -> None:
        generator = torch.Generator().manual_seed(count)
        x, y = (torch.randn(count, width, generator=generator) for width in (FEATURES, TARGETS))
        super().__init__(x, y, *([torch.arange(count)] if numbered else []))


def loader(count: int, batch_size: int = 2, numbered: bool = False, **options: Any) -> DataLoader[Any]:
    """Return a loader of :class:`Rows`.

    Args:
        count: The number of rows.
        batch_size: The number of rows in a batch.
        numbered: Whether a batch has the rows' numbers as its third part.
        options: Further arguments of the DataLoader.
    """
    return DataLoader(Rows(count, numbered), batch_size=batch_size, **options)


def rows(count: int = 16, batch_size: int = 4) -> DataLoader[Any]:
    """Return the loader of a check: by default four batches of four rows.

    Args:
        count: The number of rows.
        batch_size: The number of rows in a batch.
    """
    return loader(count, batch_size)


def quiet_trainer(root: Path, kind: Any = pl.Trainer, **options: Any) -> Any:
    """Return a Trainer for one epoch on the CPU that by default logs, saves and shows nothing.

    Args:
        root: The Trainer's ``default_root_dir``.
        kind: The Trainer's class.
        options: Further arguments of the Trainer, which replace these defaults.
    """
    arguments: dict[str, Any] = {
        "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": root,
    }  # fmt: skip
    return kind(**{**arguments, **options})


def reference_trainer(root: Path, **options: Any) -> pl.Trainer:
    """Return a quiet Trainer for two epochs on the reference device.

    Args:
        root: The Trainer's ``default_root_dir``.
        options: Further arguments of the Trainer, which replace the defaults.
    """
    arguments = {"accelerator": Host(), "devices": 1, "max_epochs": 2, "log_every_n_steps": 1}
    trainer: pl.Trainer = quiet_trainer(root, **{**arguments, **options})
    return trainer


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's state on the CPU; if it is sharded, all processes must call this to get it whole."""
    state = {name: v.full_tensor() if hasattr(v, "full_tensor") else v for name, v in module.state_dict().items()}
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: Any = None) -> bool:
    """Check that tensors differ by at most the tolerance; fail with a text that names the tensor.

    Args:
        found: The tensors of the run with the part.
        expected: The tensors of the reference run.
        tolerance: ``(rtol, atol)``, or a dict of them; without them tensors must be equal to the last bit.

    Returns:
        True.
    """
    if isinstance(tolerance, Mapping):
        tolerance = tolerance.get("rtol", 0), tolerance.get("atol", 0)
    rtol, atol = tolerance or (0, 0)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        other = expected[name]
        assert tensor.shape == other.shape, f"{name} has the shape {tuple(tensor.shape)}, not {tuple(other.shape)}"
        furthest = (tensor.double() - other.double()).abs().max().item() if tensor.numel() else 0.0
        close = torch.allclose(tensor.double(), other.double(), rtol=rtol, atol=atol)
        assert close, f"{name} differs by {furthest:.3g}, with rtol={rtol:g} and atol={atol:g}"
    return True


def same_weights(
    one: nn.Module | Mapping[str, Tensor], other: nn.Module | Mapping[str, Tensor], tolerance: float = 0.0
) -> bool:
    """Return whether two modules have the same weights.

    Args:
        one: A module or its state dict.
        other: Another module or its state dict.
        tolerance: How much elements may differ; by default they must be equal to the last bit.
    """
    first, second = (weights(state) if isinstance(state, nn.Module) else state for state in (one, other))
    return first.keys() == second.keys() and all(_near(first[name], second[name], tolerance) for name in first)


def _near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    if not tolerance:
        return torch.equal(one, other)
    return torch.allclose(one.double(), other.double(), rtol=0, atol=tolerance)

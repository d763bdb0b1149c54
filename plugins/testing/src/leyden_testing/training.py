"""What the checks train with: a small model, its rows, a quiet Trainer, and a device and a logger to compare with."""

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
"""What a logger wrote: metric to its (step, value) in order."""


class Host(Accelerator):
    """The host processor, the reference that others are compared with; a device is a process.

    The kit has its own, so that it depends on no plugin that it tests.
    """

    device_type = "cpu"

    @classmethod
    def is_available(cls) -> bool:
        """Always."""
        return True

    @classmethod
    def auto_device_count(cls) -> int:
        """One process."""
        return 1

    @classmethod
    def parse_devices(cls, devices: int | str | Sequence[int]) -> list[int]:
        """The numbers of the processes."""
        return list(range(1 if devices == "auto" else int(str(devices))))

    @classmethod
    def get_parallel_devices(cls, devices: Sequence[int]) -> list[torch.device]:
        """The same device for each process."""
        return [torch.device("cpu")] * len(devices)

    def setup_device(self, device: torch.device) -> None:
        """Nothing to make current."""

    def get_rng_state(self, device: torch.device) -> Tensor | None:
        """None: it is PyTorch's own."""
        return None


class Model(pl.LightningModule):
    """Two layers that log a loss in every stage.

    Args:
        optimizer: Makes the optimizer from parameters; stochastic gradient descent with momentum by default.
        dropout: The share of hidden values that is zeroed at random in training.
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
        )  # which pickles, as some strategies need
        self.devices_seen: set[str] = set()
        self.rows_seen: list[float] = []

    def forward(self, x: Tensor) -> Any:
        """Predict.

        Args:
            x: Rows of shape (batch, 4).
        """
        return self.layers(x)

    def loss(self, batch: Any) -> Tensor:
        """The mean loss of a batch, or of the batches of several loaders in a dict or list."""
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
        """What the model says of the rows."""
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        """The chosen optimizer of all parameters."""
        return self.make(self.parameters())


class FailingModel(Model):
    """Raises a ValueError in its second training batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Fail, at the second batch."""
        if batch_idx == 1:
            raise ValueError("the model's own error")
        return super().training_step(batch, batch_idx)


class Recorder(Logger):
    """Keeps in memory what a Trainer logs, to compare with.

    Attributes:
        series: Each metric's steps and values.
        sent: Every step and its metrics, in the order of the calls.
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
        """Keep nothing."""


class SaveAmid(pl.Callback):
    """Saves a checkpoint amid an epoch of the kit's runs, and keeps a copy of the weights of that moment.

    Args:
        path: Where to.
        step: After which optimizer step.
    """

    def __init__(self, path: Path, step: int = 6) -> None:
        self.path = str(path)
        self.step = step
        self.weights: dict[str, Tensor] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save at that step."""
        if trainer.global_step == self.step and not self.weights:
            self.weights = weights(pl_module)
            trainer.save_checkpoint(self.path)


class SaveAfterEpoch(pl.Callback):
    """Saves a checkpoint at the end of the first epoch, from where any number of processes can go on.

    Args:
        path: Where to.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.weights: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, of the first epoch."""
        if trainer.current_epoch == 0:
            self.weights = weights(pl_module)
            trainer.save_checkpoint(self.path)


class Rows(TensorDataset):
    """Random rows and targets, the same for the same count.

    Args:
        count: How many rows.
        numbered: Whether a sample has the row's number as its third part.
    """

    def __init__(self, count: int, numbered: bool = False) -> None:
        generator = torch.Generator().manual_seed(count)
        x, y = (torch.randn(count, width, generator=generator) for width in (FEATURES, TARGETS))
        super().__init__(x, y, *([torch.arange(count)] if numbered else []))


def loader(count: int, batch_size: int = 2, numbered: bool = False, **options: Any) -> DataLoader[Any]:
    """A loader of :class:`Rows`.

    Args:
        count: How many rows.
        batch_size: Rows of a batch.
        numbered: Whether a batch has the rows' numbers as its third part.
        options: Further arguments of the DataLoader.
    """
    return DataLoader(Rows(count, numbered), batch_size=batch_size, **options)


def rows(count: int = 16, batch_size: int = 4) -> DataLoader[Any]:
    """The loader of a check: by default four batches of four rows.

    Args:
        count: How many rows.
        batch_size: Rows of a batch.
    """
    return loader(count, batch_size)


def quiet_trainer(root: Path, kind: Any = pl.Trainer, **options: Any) -> Any:
    """A Trainer for one epoch on the host processor that logs, saves and shows nothing but what is asked for.

    Args:
        root: Its ``default_root_dir``.
        kind: Its class.
        options: Arguments for it, in the place of these or beside them.
    """
    arguments: dict[str, Any] = {
        "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": root,
    }  # fmt: skip
    return kind(**{**arguments, **options})


def reference_trainer(root: Path, **options: Any) -> pl.Trainer:
    """The quiet Trainer of a check: for two epochs on the reference device.

    Args:
        root: Its ``default_root_dir``.
        options: Arguments for it, in the place of these or beside them.
    """
    arguments = {"accelerator": Host(), "devices": 1, "max_epochs": 2, "log_every_n_steps": 1}
    trainer: pl.Trainer = quiet_trainer(root, **{**arguments, **options})
    return trainer


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state on the host, whole where it is divided among processes, which all ask then."""
    state = {name: v.full_tensor() if hasattr(v, "full_tensor") else v for name, v in module.state_dict().items()}
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: Any = None) -> bool:
    """Fail, with a sentence, where tensors differ by more than the tolerance.

    Args:
        found: What the part under test led to.
        expected: What the reference led to.
        tolerance: ``(rtol, atol)``, or a dict of them; nothing of either means to the last bit.

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
    """Whether two modules, or two states, are equal.

    Args:
        one: A module or a state.
        other: Another one.
        tolerance: By how much elements may differ; by default they are equal to the last bit.
    """
    first, second = (weights(state) if isinstance(state, nn.Module) else state for state in (one, other))
    return first.keys() == second.keys() and all(_near(first[name], second[name], tolerance) for name in first)


def _near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    if not tolerance:
        return torch.equal(one, other)
    return torch.allclose(one.double(), other.double(), rtol=0, atol=tolerance)

"""The hooks that a LightningModule or a LightningDataModule may override, with their defaults.

:mod:`leyden.plugin_system.hooks` documents when each is called; here they have no arguments ``trainer`` and
``pl_module``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from leyden.utilities.exceptions import MisconfigurationException


class DataHooks:
    """Hooks of modules and data modules: make the data and move batches to the device."""

    def prepare_data(self) -> None:
        """Download data or write it to disk; called in one process, by default of each node.

        With ``prepare_data_per_node = False`` it is called in one process of all nodes. Assign nothing to ``self``
        here, since the other processes would not see it.
        """

    def setup(self, stage: str) -> None:
        """Prepare the data in each process when a run begins; ``stage`` is "fit", "validate", "test" or "predict"."""

    def teardown(self, stage: str) -> None:
        """Clean up in each process when a run is over."""

    def train_dataloader(self) -> Any:
        """Return the training loader, or a collection of loaders."""
        raise MisconfigurationException(f"{type(self).__name__} has no train_dataloader.")

    def val_dataloader(self) -> Any:
        """Return the validation loader, or a list of loaders."""
        raise MisconfigurationException(f"{type(self).__name__} has no val_dataloader.")

    def test_dataloader(self) -> Any:
        """Return the test loader, or a list of loaders."""
        raise MisconfigurationException(f"{type(self).__name__} has no test_dataloader.")

    def predict_dataloader(self) -> Any:
        """Return the prediction loader, or a list of loaders."""
        raise MisconfigurationException(f"{type(self).__name__} has no predict_dataloader.")

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return the batch, changed as needed, before it is moved to the device."""
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch on ``device``; override it for your own type of batch."""
        from leyden.utilities.batch import move_data_to_device

        return move_data_to_device(batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return the batch, changed as needed, after it was moved to the device."""
        return batch

    def on_exception(self, exception: BaseException) -> None:
        """A run is ending because of ``exception``."""


class CheckpointHooks:
    """Hooks that add data to checkpoints and read it from them."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Called before a checkpoint is written; change the dict to add data."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Called after a checkpoint was read, with its content."""


class ModelHooks:
    """Hooks of a LightningModule, called at points of a run."""

    def configure_model(self) -> None:
        """Make large submodules here instead of in ``__init__``; called in every run, so make them only once."""

    def on_fit_start(self) -> None:
        """The module is on its device and has its optimizers."""

    def on_fit_end(self) -> None:
        """A fit is over."""

    def on_train_start(self) -> None:
        """Training begins."""

    def on_train_end(self) -> None:
        """Training is over."""

    def on_train_epoch_start(self) -> None:
        """A training epoch begins."""

    def on_train_epoch_end(self) -> None:
        """A training epoch ends; callbacks can monitor what is logged here."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """A batch is about to be trained on; return -1 to skip the rest of the epoch."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A batch has been trained on."""

    def on_validation_model_zero_grad(self) -> None:
        """Validation within a fit is about to start; the default clears the gradients to free memory."""
        self.zero_grad()  # type: ignore[attr-defined]

    def on_validation_model_eval(self) -> None:
        """Put the module into evaluation mode for validation."""
        self.eval()  # type: ignore[attr-defined]

    def on_validation_model_train(self) -> None:
        """Put the module into training mode after validation. Unless overridden, every submodule gets its own mode."""
        self.train()  # type: ignore[attr-defined]

    def on_test_model_eval(self) -> None:
        """Put the module into evaluation mode for testing."""
        self.eval()  # type: ignore[attr-defined]

    def on_test_model_train(self) -> None:
        """Put the module into training mode after testing. Unless overridden, every submodule gets its own mode."""
        self.train()  # type: ignore[attr-defined]

    def on_predict_model_eval(self) -> None:
        """Put the module into evaluation mode for prediction."""
        self.eval()  # type: ignore[attr-defined]

    def on_predict_model_train(self) -> None:
        """Put the module into training mode after prediction. Unless overridden, every submodule gets its own mode."""
        self.train()  # type: ignore[attr-defined]

    def on_validation_start(self) -> None:
        """Validation begins."""

    def on_validation_end(self) -> None:
        """Validation is over."""

    def on_validation_epoch_start(self) -> None:
        """The pass over the validation loaders begins."""

    def on_validation_epoch_end(self) -> None:
        """The pass over the validation loaders is over."""

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A validation batch is about to be evaluated."""

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A validation batch has been evaluated."""

    def on_test_start(self) -> None:
        """Testing begins."""

    def on_test_end(self) -> None:
        """Testing is over."""

    def on_test_epoch_start(self) -> None:
        """The pass over the test loaders begins."""

    def on_test_epoch_end(self) -> None:
        """The pass over the test loaders is over."""

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A test batch is about to be evaluated."""

    def on_test_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A test batch has been evaluated."""

    def on_predict_start(self) -> None:
        """Prediction begins."""

    def on_predict_end(self) -> None:
        """Prediction is over."""

    def on_predict_epoch_start(self) -> None:
        """The pass over the prediction loaders begins."""

    def on_predict_epoch_end(self) -> None:
        """The pass over the prediction loaders is over."""

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A batch is about to be predicted."""

    def on_predict_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A batch has been predicted."""

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        """Gradients are about to be cleared."""

    def on_before_backward(self, loss: Tensor) -> None:
        """Before the backward pass."""

    def on_after_backward(self) -> None:
        """After the backward pass."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Before the optimizer's step; gradients are unscaled but not clipped yet."""

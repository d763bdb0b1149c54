"""The hooks that a LightningModule or a LightningDataModule may override, with what they do if it does not.

Those that others may implement, too, are listed in :mod:`leyden.plugin_system.hooks` and do nothing here.
"""

from typing import Any

import torch

from leyden.mixins.observations import CheckpointHooks as CheckpointHooks
from leyden.mixins.observations import DataObservations, ModelObservations
from leyden.utilities import MisconfigurationException


class DataHooks(DataObservations):
    """Where data comes from and how a batch reaches the device; for modules and data modules."""

    def prepare_data(self) -> None:
        """Download and write to disk; called in one process (of each node, or in all: ``prepare_data_per_node``).

        Assign nothing to ``self`` here: the other processes would not see it.
        """

    def train_dataloader(self) -> Any:
        """The training loader, or a collection of them."""
        raise MisconfigurationException(f"{type(self).__name__} has no train_dataloader.")

    def val_dataloader(self) -> Any:
        """The validation loader, or a list of them."""
        raise MisconfigurationException(f"{type(self).__name__} has no val_dataloader.")

    def test_dataloader(self) -> Any:
        """The test loader, or a list of them."""
        raise MisconfigurationException(f"{type(self).__name__} has no test_dataloader.")

    def predict_dataloader(self) -> Any:
        """The prediction loader, or a list of them."""
        raise MisconfigurationException(f"{type(self).__name__} has no predict_dataloader.")

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change a batch before it moves to the device; return it."""
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch of a type of your own to ``device``; return it."""
        from leyden.utilities.batch import move_data_to_device

        return move_data_to_device(batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change a batch on the device; return it."""
        return batch


class ModelHooks(ModelObservations):
    """What happens in a run, for a LightningModule."""

    def configure_model(self) -> None:
        """Make large submodules here instead of in ``__init__``; called in every run, so make them once."""

    def on_validation_model_zero_grad(self) -> None:
        """Validation within a fit is about to start; frees the gradients."""
        self.zero_grad()  # type: ignore[attr-defined]

    def on_validation_model_eval(self) -> None:
        """Put the module into evaluation mode, before a pass of evaluation or prediction."""
        self.eval()  # type: ignore[attr-defined]

    def on_validation_model_train(self) -> None:
        """Put the module back after such a pass. If not overridden, every submodule's mode is restored."""
        self.train()  # type: ignore[attr-defined]

    on_test_model_eval = on_predict_model_eval = on_validation_model_eval
    on_test_model_train = on_predict_model_train = on_validation_model_train

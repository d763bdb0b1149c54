"""The hooks of the group Observation as methods of a module or data module, without ``trainer`` and ``pl_module``.

They are made from :mod:`leyden.plugin_system.hooks`, and do nothing. Editors and type checkers read them in the stub
beside this file, which ``core/docs.py`` writes.
"""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

class DataObservations:
    """What happens in a run, for modules and data modules."""

    def setup(self, stage: str) -> None:
        """A run begins; ``stage`` is "fit", "validate", "test" or "predict". The model is still where it was built."""

    def teardown(self, stage: str) -> None:
        """A run is over and went well; after an error there is ``on_exception``."""

    def on_exception(self, exception: BaseException) -> None:
        """A run is ending because of ``exception`` (Ctrl-C included), which is raised again afterwards."""

class CheckpointHooks:
    """What a module adds to checkpoints, and takes back from them."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is complete and about to be written; add to it or change it in place."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint has been read and nothing is restored from it yet; change it in place."""

class ModelObservations:
    """What happens in a run, for modules alone."""

    def on_fit_start(self) -> None:
        """The model is on its device and has its optimizers; before the sanity check."""

    def on_sanity_check_start(self) -> None:
        """A few validation batches are about to be tried before training."""

    def on_sanity_check_end(self) -> None:
        """The sanity check is over; its metrics are forgotten."""

    def on_train_start(self) -> None:
        """Training is about to begin, after the sanity check."""

    def on_train_epoch_start(self) -> None:
        """A training epoch begins."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """A batch, already on the device, is about to be trained on. Return -1 to skip the rest of the epoch."""

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        """Gradients are about to be cleared."""

    def on_before_backward(self, loss: Tensor) -> None:
        """Before ``loss.backward()``; ``loss`` is divided by the number of batches of its step already."""

    def on_after_backward(self) -> None:
        """Gradients exist; under mixed precision they are still scaled."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Gradients are unscaled and not yet clipped; the optimizer is about to step."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A batch has been trained on; ``outputs`` is ``{"loss": …}`` and what the step's dict held, detached."""

    def on_train_epoch_end(self) -> None:
        """A training epoch ends. Implementations that read epoch metrics mark themselves ``trylast``."""

    def on_train_end(self) -> None:
        """Training is over."""

    def on_validation_start(self) -> None:
        """Validation begins; the model is in evaluation mode."""

    def on_validation_epoch_start(self) -> None:
        """The pass over the validation loaders begins."""

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A validation batch, already on the device, is about to be evaluated."""

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A validation batch has been evaluated; ``outputs`` is what ``validation_step`` returned."""

    def on_validation_epoch_end(self) -> None:
        """The pass over the validation loaders is over; the last place to log from."""

    def on_validation_end(self) -> None:
        """Validation is over and ``trainer.callback_metrics`` holds its results."""

    def on_test_start(self) -> None:
        """Testing begins; the model is in evaluation mode."""

    def on_test_epoch_start(self) -> None:
        """The pass over the test loaders begins."""

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A test batch, already on the device, is about to be evaluated."""

    def on_test_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A test batch has been evaluated; ``outputs`` is what ``test_step`` returned."""

    def on_test_epoch_end(self) -> None:
        """The pass over the test loaders is over; the last place to log from."""

    def on_test_end(self) -> None:
        """Testing is over and ``trainer.callback_metrics`` holds its results."""

    def on_predict_start(self) -> None:
        """Prediction begins; the model is in evaluation mode."""

    def on_predict_epoch_start(self) -> None:
        """The pass over the prediction loaders begins."""

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A batch, already on the device, is about to be predicted."""

    def on_predict_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A batch has been predicted; ``outputs`` is what ``predict_step`` returned."""

    def on_predict_epoch_end(self) -> None:
        """The pass over the prediction loaders is over."""

    def on_predict_end(self) -> None:
        """Prediction is over."""

    def on_fit_end(self) -> None:
        """A fit is over; the last hook of a fit before ``teardown``."""

    def on_asked_to_end(self, reason: str) -> None:
        """A fit ends at a step boundary, as something set ``trainer.asked_to_end``; save what is needed."""

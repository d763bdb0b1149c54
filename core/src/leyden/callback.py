"""Callback: code that runs beside the model at the points of a run that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from leyden.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from leyden.module import LightningModule
    from leyden.trainer import Trainer


class Callback:
    """Base class of callbacks: override the hooks you need, keep state in the instance.

    An author *must* write nothing and *may* override every hook, :meth:`state_dict` and :meth:`load_state_dict`.
    Hooks are specified in :mod:`leyden.hooks`; a hook that is not overridden costs nothing.

    Attributes:
        role: What this callback is to the Trainer, where it is one of the things that a Trainer has by
            default: "checkpoint", "progress_bar", "model_summary", "early_stopping", "timer". The default
            is left out when a callback with its role is given; checkpoint callbacks run after the others.
    """

    role: ClassVar[str | None] = None
    _logging_module: LightningModule | None = None

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint; unique among the Trainer's callbacks that have state."""
        return type(self).__qualname__

    def _generate_state_key(self, **kwargs: Any) -> str:
        """A state key from the class's name and the arguments that tell two instances apart."""
        return f"{type(self).__qualname__}{kwargs!r}"

    def log(self, name: str, value: Any, *args: Any, **options: Any) -> None:
        """Log as the module does; the arguments are those of ``LightningModule.log``.

        Raises:
            MisconfigurationException: No run is under way, or it has no meaning in the hook that runs.
        """
        if self._logging_module is None:
            raise MisconfigurationException(
                f"self.log({name!r}, …) of {type(self).__name__} was called outside of a run; log from a hook."
            )
        self._logging_module.log(name, value, *args, **options)

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **options: Any) -> None:
        """Log several values with the same options; see :meth:`log`."""
        for name, value in dictionary.items():
            self.log(name, value, *args, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_logging_module"}

    def state_dict(self) -> dict[str, Any]:
        """State to keep in checkpoints: plain data and tensors."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A run begins: "fit", "validate", "test" or "predict"."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A run is over."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The model is on its device and has its optimizers."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A fit is over."""

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The sanity check begins."""

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The sanity check is over."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training begins."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is over."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A training epoch begins."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A training epoch ends."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A batch is about to be trained on."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch has been trained on."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation begins."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is over."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The pass over the validation loaders begins."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The pass over the validation loaders is over."""

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A validation batch is about to be evaluated."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A validation batch has been evaluated."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Testing begins."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Testing is over."""

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The pass over the test loaders begins."""

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The pass over the test loaders is over."""

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A test batch is about to be evaluated."""

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A test batch has been evaluated."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prediction begins."""

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prediction is over."""

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The pass over the prediction loaders begins."""

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The pass over the prediction loaders is over."""

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A batch is about to be predicted."""

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A batch has been predicted."""

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients are about to be cleared."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Before the backward pass."""

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the backward pass."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Before the optimizer's step, gradients unscaled and not yet clipped."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A run is ending because of ``exception``."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is about to be written."""

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint has been read."""

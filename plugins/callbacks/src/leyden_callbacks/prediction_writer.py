"""BasePredictionWriter: the base class of callbacks that store predictions, batch by batch or all at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor
from torch.utils._pytree import tree_map_only

from leyden.callbacks import Callback
from leyden.utilities import MisconfigurationException
from leyden_callbacks.batch_indices import indices_of

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer


class BasePredictionWriter(Callback):
    """Base class for callbacks that store predictions; implement one or both of its two methods.

    The methods are :meth:`write_on_batch_end` and :meth:`write_on_epoch_end`. Each process writes its own
    predictions, so put ``trainer.global_rank`` into the file names. If predictions are written batch by batch,
    ``trainer.predict(..., return_predictions=False)`` keeps none of them in memory.

    Args:
        write_interval: "batch" writes after each batch, "epoch" after all of them, "batch_and_epoch" at both.

    Example::

        class Writer(BasePredictionWriter):
            def write_on_batch_end(
                self, trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx
            ):
                torch.save({"indices": batch_indices, "prediction": prediction}, f"{dataloader_idx}-{batch_idx}.pt")

    Raises:
        MisconfigurationException: ``write_interval`` has another value.
    """

    def __init__(self, write_interval: Literal["batch", "epoch", "batch_and_epoch"] = "batch") -> None:
        if write_interval not in ("batch", "epoch", "batch_and_epoch"):
            raise MisconfigurationException(
                f"{type(self).__name__}(write_interval={write_interval!r}) must be "
                '"batch", "epoch" or "batch_and_epoch".'
            )
        self.interval = write_interval
        self._kept: defaultdict[int, list[Any]] = defaultdict(list)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Store the predictions of one batch.

        Args:
            trainer: The Trainer.
            pl_module: The model.
            prediction: What ``predict_step`` returned.
            batch_indices: The dataset indices of the batch's samples; empty if the loader does not draw indices.
            batch: The batch.
            batch_idx: The batch's number within its loader, from 0.
            dataloader_idx: The loader's number, from 0.
        """
        raise NotImplementedError(
            f'{type(self).__name__}(write_interval="{self.interval}") needs write_on_batch_end().'
        )

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Store the predictions of all batches.

        Args:
            trainer: The Trainer.
            pl_module: The model.
            predictions: What ``predict_step`` returned for each batch, on the CPU; with several loaders, a list of
                such lists.
            batch_indices: For each loader, for each batch, the indices of its samples.
        """
        raise NotImplementedError(
            f'{type(self).__name__}(write_interval="{self.interval}") needs write_on_epoch_end().'
        )

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard the predictions of an earlier run."""
        self._kept.clear()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the batch's predictions, or keep them for the end of the epoch if the loop does not."""
        loop = trainer.predict_loop
        assert loop.loader is not None
        if self.interval != "epoch":
            indices = indices_of(loop.loader.flattened[dataloader_idx], batch_idx)
            self.write_on_batch_end(trainer, pl_module, outputs, indices, batch, batch_idx, dataloader_idx)
        if self.interval != "batch" and not loop.return_predictions:
            self._kept[dataloader_idx].append(tree_map_only(Tensor, Tensor.cpu, outputs))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write all predictions, unless ``write_interval`` is "batch"."""
        if self.interval == "batch":
            return
        loop = trainer.predict_loop
        assert loop.loader is not None
        loaders = loop.loader.flattened
        if not loop.return_predictions:
            predicted = [self._kept[i] for i in range(len(loaders))]
        else:
            predicted = [loop.predictions] if len(loaders) == 1 else loop.predictions
        self._kept = defaultdict(list)
        indices = [
            [indices_of(loader, batch_idx) for batch_idx in range(len(batches))]
            for loader, batches in zip(loaders, predicted, strict=True)
        ]
        self.write_on_epoch_end(trainer, pl_module, predicted[0] if len(loaders) == 1 else predicted, indices)

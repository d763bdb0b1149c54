"""The run of ``leyden_testing.killed_run``, with metrics of several kinds, logged and not.

python measured_run.py DIRECTORY CASES
"""

from __future__ import annotations

from typing import Any

import torchmetrics
from torch import Tensor, nn

from leyden_testing import killed_run


class MeasuredModel(killed_run.Model):
    """Logs a metric by step and by epoch, a collection and a metric in validation, and computes one by hand."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.train_error, self.val_error = torchmetrics.MeanAbsoluteError(), torchmetrics.MeanAbsoluteError()
        self.all_losses = torchmetrics.CatMetric()
        collection = {"mse": torchmetrics.MeanSquaredError(), "r2": torchmetrics.R2Score()}
        self.collection = torchmetrics.MetricCollection(collection, prefix="train_")
        self.net.register_forward_hook(self._keep_prediction)

    def _keep_prediction(self, net: nn.Module, inputs: Any, prediction: Tensor) -> None:
        self.prediction = prediction.detach()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        target = self.target(batch)
        self.train_error(self.prediction, target)
        self.log("train_error", self.train_error, on_step=True, on_epoch=True)
        self.all_losses.update(loss.detach())
        self.collection.update(self.prediction, target)
        self.log_dict(self.collection, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("mean_of_all", self.all_losses.compute().mean())
        self.all_losses.reset()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.val_error(self.prediction, self.target(batch))
        self.log("val_error", self.val_error)

    @staticmethod
    def target(batch: Any) -> Tensor:
        """Return the target of a batch."""
        return batch[1]


if __name__ == "__main__":
    killed_run.main(MeasuredModel)

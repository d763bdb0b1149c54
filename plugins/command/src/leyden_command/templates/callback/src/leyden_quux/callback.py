"""The callback Quux: stops a fit when its loss becomes infinite or NaN."""

from __future__ import annotations

from typing import Any

import torch

from leyden import Callback, LightningModule, Trainer
from leyden.utilities import rank_zero_warn


class Quux(Callback):
    """Stops training when the loss is infinite or NaN in several checks in a row.

    Reading the loss waits for the device, so the loss is checked only every few batches.

    Args:
        patience: Training stops after this many failed checks in a row; at least 1.
        every_n_batches: The number of batches between two checks; at least 1.

    Attributes:
        failed_checks: The number of failed checks in a row.

    Raises:
        ValueError: An argument is below 1.

    Example::

        trainer = Trainer(callbacks=[Quux(patience=3)])
    """

    def __init__(self, patience: int = 1, every_n_batches: int = 10) -> None:
        for name, value in (("patience", patience), ("every_n_batches", every_n_batches)):
            if value < 1:
                raise ValueError(f"{name}={value!r} must be at least 1.")
        self.patience, self.every_n_batches = patience, every_n_batches
        self.failed_checks = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the loss, and stop training if it is time to."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else None
        if loss is None or batch_idx % self.every_n_batches:
            return
        self.failed_checks = 0 if bool(torch.isfinite(loss).all()) else self.failed_checks + 1
        stop = self.failed_checks >= self.patience
        if trainer.strategy.reduce_boolean_decision(stop, all=False):
            rank_zero_warn(f"Training stops: the loss is {float(loss)} at batch {batch_idx}.")
            trainer.should_stop = True

    def start_anew(self) -> None:
        """Forget the fit of another Trainer."""
        self.failed_checks = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        return {"failed_checks": self.failed_checks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.failed_checks = state_dict["failed_checks"]

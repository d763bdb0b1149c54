"""The callback Quux: stops a fit whose loss is no number any more, before it costs another night."""

from __future__ import annotations

from typing import Any

import torch

from leyden import Callback, LightningModule, Trainer
from leyden.utilities import rank_zero_warn


class Quux(Callback):
    """Stops training after so many batches in a row with a loss of inf or nan.

    Looking at the loss waits for the device, so that it is done every few batches only.

    Args:
        patience: Looks in a row at which the loss is no number, before training stops; at least 1.
        every_n_batches: Batches from one look to the next; at least 1.

    Attributes:
        in_a_row: How many of the last looks saw no number.

    Raises:
        ValueError: One of the two is below 1.

    Example::

        trainer = Trainer(callbacks=[Quux(patience=3)])
    """

    def __init__(self, patience: int = 1, every_n_batches: int = 10) -> None:
        for name, value in (("patience", patience), ("every_n_batches", every_n_batches)):
            if value < 1:
                raise ValueError(f"{name}={value!r} must be at least 1.")
        self.patience, self.every_n_batches = patience, every_n_batches
        self.in_a_row = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else None
        if loss is None or batch_idx % self.every_n_batches:
            return
        self.in_a_row = 0 if bool(torch.isfinite(loss).all()) else self.in_a_row + 1
        stop = self.in_a_row >= self.patience
        if trainer.strategy.reduce_boolean_decision(stop, all=False):
            rank_zero_warn(f"Training stops: the loss is {float(loss)} at batch {batch_idx}.")
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {"in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        self.in_a_row = state_dict["in_a_row"]

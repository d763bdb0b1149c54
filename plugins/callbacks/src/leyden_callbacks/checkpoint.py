"""Checkpoint: the base class of callbacks that save the model."""

from __future__ import annotations

from typing import ClassVar

from leyden.callbacks import Callback


class Checkpoint(Callback):
    """Derive from it to write a checkpoint callback of one's own.

    The Trainer then takes it for its checkpoint callback: the default ``ModelCheckpoint`` is left out, it runs
    after the other callbacks, and it is listed in ``trainer.checkpoint_callbacks``.
    """

    role: ClassVar[str | None] = "checkpoint"

"""Checkpoint: the base class of callbacks that save the model."""

from __future__ import annotations

from typing import ClassVar

from leyden.callbacks import Callback


class Checkpoint(Callback):
    """Base class for your own checkpoint callbacks.

    A Trainer that gets one makes no default ``ModelCheckpoint``. It runs the callback after the other callbacks and
    lists it in ``trainer.checkpoint_callbacks``.
    """

    role: ClassVar[str | None] = "checkpoint"

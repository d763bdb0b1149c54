"""``leyden.core`` and the modules below it: the user's two base classes, and what they are made of."""

import sys

from leyden import LightningDataModule, LightningModule
from leyden.plugins import CheckpointHooks, DataHooks, HyperparametersMixin, LightningOptimizer, ModelHooks

__all__ = [
    "CheckpointHooks",
    "DataHooks",
    "HyperparametersMixin",
    "LightningDataModule",
    "LightningModule",
    "LightningOptimizer",
    "ModelHooks",
]

module = datamodule = hooks = mixins = optimizer = sys.modules[__name__]  # each has all of it

__path__: list[str] = []  # without it Python does not look for modules below this one

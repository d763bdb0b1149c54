"""Leyden: a training framework for PyTorch; a tiny core that knows when things happen, and plugins that know how."""

from leyden import callbacks, loggers, profilers, utilities
from leyden.callback import Callback
from leyden.datamodule import LightningDataModule
from leyden.hooks import hookimpl
from leyden.interfaces.component import Component
from leyden.module import LightningModule
from leyden.trainer import Trainer
from leyden.utilities.rng import seed_everything

__version__ = "0.1.0"
__all__ = [
    "Callback",
    "Component",
    "LightningDataModule",
    "LightningModule",
    "Trainer",
    "__version__",
    "callbacks",
    "hookimpl",
    "loggers",
    "profilers",
    "seed_everything",
    "utilities",
]

"""Leyden: a training framework for PyTorch; a tiny core that knows when things happen, and plugins that know how."""

from typing import Any

from leyden import accelerators, callbacks, core, fabric, loggers, plugins, profilers, strategies, utilities
from leyden.callback import Callback
from leyden.datamodule import LightningDataModule
from leyden.interfaces.component import Component
from leyden.module import LightningModule
from leyden.plugin_system.catalogue import published_by
from leyden.plugin_system.hooks import hookimpl
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
    "accelerators",
    "callbacks",
    "core",
    "fabric",
    "hookimpl",
    "loggers",
    "plugins",
    "profilers",
    "seed_everything",
    "strategies",
    "utilities",
]


def __getattr__(name: str) -> Any:
    """What stands here in Lightning and is a plugin's in Leyden, found on first use."""
    if name in dir(fabric) or published_by("fabric", name)[0]:
        return getattr(fabric, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

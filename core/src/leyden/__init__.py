"""Leyden: a training framework for PyTorch; a tiny core that knows when things happen, and plugins that know how."""

from typing import Any

from leyden import accelerators, callbacks, fabric, loggers, plugins, profilers, strategies, utilities
from leyden.callback import Callback
from leyden.datamodule import LightningDataModule
from leyden.interfaces.component import Component
from leyden.module import LightningModule
from leyden.plugin_system.hooks import hookimpl
from leyden.plugin_system.manager import published_by
from leyden.plugin_system.windows import submodule
from leyden.trainer import Trainer
from leyden.utilities.rng import seed_everything

__version__ = "0.1.0"
__all__ = ["Callback", "Component", "LightningDataModule", "LightningModule", "Trainer"]
__all__ += ["__version__", "hookimpl", "seed_everything"]
__all__ += ["accelerators", "callbacks", "fabric", "loggers", "plugins", "profilers", "strategies", "utilities"]


def __getattr__(name: str) -> Any:
    """What an installed plugin brings to stand here: a part of the hand-written loop's, or a module."""
    if name in dir(fabric) or published_by("fabric", name)[0]:
        return getattr(fabric, name)
    return submodule(__name__, name)

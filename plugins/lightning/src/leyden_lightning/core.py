"""``leyden.core``: the user's two base classes and the modules that they come from, where Lightning has them."""

from leyden import datamodule, module
from leyden.datamodule import LightningDataModule
from leyden.loops import optimizers as optimizer
from leyden.module import LightningModule

__all__ = ["LightningDataModule", "LightningModule", "datamodule", "module", "optimizer"]

__path__: list[str] = []  # Python looks for modules below this one only where there is a path

"""The user's two base classes, and the modules that they come from, where users of Lightning look for them."""

from leyden import datamodule, module
from leyden.datamodule import LightningDataModule
from leyden.loops import optimizer
from leyden.module import LightningModule

__all__ = ["LightningDataModule", "LightningModule", "datamodule", "module", "optimizer"]

"""``leyden.core``: the two base classes that users derive from, and their modules, at Lightning's paths."""

from leyden import datamodule, module
from leyden.datamodule import LightningDataModule
from leyden.loops import optimizer
from leyden.module import LightningModule

__all__ = ["LightningDataModule", "LightningModule", "datamodule", "module", "optimizer"]

__path__: list[str] = []  # without it Python does not look for modules below this one

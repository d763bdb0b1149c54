"""What leyden-tensorboard brings to Leyden: the logger, by name and as the default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from leyden import Component, hookimpl

if TYPE_CHECKING:
    from leyden import Trainer
    from leyden.loggers import Logger


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The logger."""
    options = {"aliases": ["TensorBoardLogger"]}
    yield Component("logger", "tensorboard", "leyden_tensorboard.logger:TensorBoardLogger", options)


@hookimpl
def leyden_default_logger(trainer: Trainer) -> Logger:
    """A logger that makes its files with the first thing that is logged."""
    from leyden_tensorboard.logger import TensorBoardLogger

    return TensorBoardLogger(trainer.default_root_dir)

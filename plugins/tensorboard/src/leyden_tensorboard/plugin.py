"""The plugin's hooks: the TensorBoard logger, by name and as the default logger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from leyden import Component, hookimpl

if TYPE_CHECKING:
    from leyden import Trainer
    from leyden.loggers import Logger


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the TensorBoard logger."""
    options = {"aliases": ["TensorBoardLogger"]}
    yield Component("logger", "tensorboard", "leyden_tensorboard.logger:TensorBoardLogger", options)


@hookimpl
def leyden_default_logger(trainer: Trainer) -> Logger:
    """Make the default logger, which creates no files before something is logged."""
    from leyden_tensorboard.logger import TensorBoardLogger

    return TensorBoardLogger(trainer.default_root_dir)

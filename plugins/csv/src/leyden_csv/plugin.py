"""The plugin's hooks: the CSV logger, which is the default logger if no other plugin has one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from leyden import Component, hookimpl

if TYPE_CHECKING:
    from leyden import Trainer
    from leyden.loggers import Logger


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the CSV logger."""
    yield Component("logger", "csv", "leyden_csv.logger:CSVLogger", {"aliases": ["CSVLogger"]})


@hookimpl(trylast=True)
def leyden_default_logger(trainer: Trainer) -> Logger:
    """Make the default logger if no other plugin has one; it comes last, since it shows no plots."""
    from leyden_csv.logger import CSVLogger

    return CSVLogger(trainer.default_root_dir)

"""What leyden-csv brings to Leyden: the logger by name, and a default where no other plugin has one."""

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
    yield Component("logger", "csv", "leyden_csv.logger:CSVLogger", {"aliases": ["CSVLogger"]})


@hookimpl(trylast=True)
def leyden_default_logger(trainer: Trainer) -> Logger:
    """The last resort among default loggers, as it shows nothing but keeps everything."""
    from leyden_csv.logger import CSVLogger

    return CSVLogger(trainer.default_root_dir)

"""What leyden-logfiles brings to Leyden: what authors of loggers use, shown by ``leyden.loggers``."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """A base class, and functions for files of hyperparameters; ``load_from_checkpoint`` calls the one that reads."""
    for name in ("RunDirectoryLogger", "load_hparams", "save_hparams"):
        yield Component("logger_part", name, f"leyden_logfiles:{name}")

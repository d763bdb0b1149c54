"""What leyden-logfiles brings to Leyden: what authors of loggers use, shown by ``leyden.loggers``."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """A base class, and a function."""
    for name in ("RunDirectoryLogger", "save_hparams"):
        yield Component("logger_part", name, f"leyden_logfiles:{name}")

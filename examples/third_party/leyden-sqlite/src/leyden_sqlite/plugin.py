"""What leyden-sqlite brings to Leyden."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The logger, by name and by the name of its class."""
    yield Component("logger", "sqlite", "leyden_sqlite.logger:SQLiteLogger", {"aliases": ["SQLiteLogger"]})

"""The plugin's hooks: the logger."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the logger, under a short name and its class's name."""
    yield Component("logger", "sqlite", "leyden_sqlite.logger:SQLiteLogger", {"aliases": ["SQLiteLogger"]})

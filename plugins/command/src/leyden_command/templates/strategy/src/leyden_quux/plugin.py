"""The plugin's hooks. This module must import quickly, since every Trainer loads it."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the strategy."""
    yield Component("strategy", "quux", "leyden_quux.strategy:QuuxStrategy", {"aliases": ["QuuxStrategy"]})

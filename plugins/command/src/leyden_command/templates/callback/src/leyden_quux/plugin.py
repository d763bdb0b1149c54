"""The plugin's hooks. This module must import quickly, since every Trainer loads it."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the callback, under the name of its class."""
    yield Component("callback", "Quux", "leyden_quux.callback:Quux")

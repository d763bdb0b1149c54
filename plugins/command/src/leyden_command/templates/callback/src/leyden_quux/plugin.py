"""What leyden-quux brings to Leyden; it imports nothing heavy, as it is loaded with every Trainer."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The callback, by the name of its class."""
    yield Component("callback", "Quux", "leyden_quux.callback:Quux")

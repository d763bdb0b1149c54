"""What leyden-quux brings to Leyden; it imports nothing heavy, as it is loaded with every Trainer."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The precision."""
    yield Component("precision", "quux", "leyden_quux.precision:QuuxPrecision", {"aliases": ["QuuxPrecision"]})

"""What leyden-quux brings to Leyden; it imports nothing heavy, as it is loaded with every Trainer."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The environment; where several are detected, the one with the highest priority is followed."""
    yield Component(
        "environment",
        "quux",
        "leyden_quux.environment:QuuxEnvironment",
        {"priority": 15, "aliases": ["QuuxEnvironment"]},
    )

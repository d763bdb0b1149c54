"""What leyden-quux brings to Leyden; it imports nothing heavy, as it is loaded with every Trainer."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The accelerator; ``auto`` takes the available one with the highest priority, and the host has 0."""
    yield Component(
        "accelerator",
        "quux",
        "leyden_quux.accelerator:QuuxAccelerator",
        {"priority": 1, "aliases": ["QuuxAccelerator"]},
    )

"""The plugin's hooks. This module must import quickly, since every Trainer loads it."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the accelerator; ``auto`` takes the available one with the highest priority, and the CPU's is 0."""
    yield Component(
        "accelerator",
        "quux",
        "leyden_quux.accelerator:QuuxAccelerator",
        {"priority": 1, "aliases": ["QuuxAccelerator"]},
    )

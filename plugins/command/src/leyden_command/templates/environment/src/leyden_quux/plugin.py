"""The plugin's hooks. This module must import quickly, since every Trainer loads it."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the environment; if several are detected, Leyden uses the one with the highest priority."""
    yield Component(
        "environment",
        "quux",
        "leyden_quux.environment:QuuxEnvironment",
        {"priority": 15, "aliases": ["QuuxEnvironment"]},
    )

"""The plugin's hooks. This module must import quickly, since every Trainer loads it."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the checkpoint IO."""
    yield Component(
        "checkpoint_io", "quux", "leyden_quux.checkpoint_io:QuuxCheckpointIO", {"aliases": ["QuuxCheckpointIO"]}
    )

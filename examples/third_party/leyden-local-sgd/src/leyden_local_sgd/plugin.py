"""The plugin's hooks: the strategy."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the strategy under two names: one runs the script in each process, the other spawns processes."""
    target = "leyden_local_sgd.strategy:LocalSGDStrategy"
    yield Component("strategy", "local_sgd", target, {"aliases": ["LocalSGDStrategy"]})
    yield Component("strategy", "local_sgd_spawn", target, {"arguments": {"start_method": "spawn"}})

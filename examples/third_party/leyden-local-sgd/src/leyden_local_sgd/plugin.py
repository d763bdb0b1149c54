"""What leyden-local-sgd brings to Leyden."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The strategy, with processes that run the script again, and with such as are spawned."""
    target = "leyden_local_sgd.strategy:LocalSGDStrategy"
    yield Component("strategy", "local_sgd", target, {"aliases": ["LocalSGDStrategy"]})
    yield Component("strategy", "local_sgd_spawn", target, {"arguments": {"start_method": "spawn"}})

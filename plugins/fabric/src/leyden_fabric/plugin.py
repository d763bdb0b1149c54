"""What leyden-fabric brings to Leyden: ``Fabric`` and what belongs to it, shown by ``leyden.fabric``."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The class, and the question whether an object was set up by one."""
    yield Component("fabric", "Fabric", "leyden_fabric.fabric:Fabric")
    yield Component("fabric", "is_wrapped", "leyden_fabric.wrappers:is_wrapped")

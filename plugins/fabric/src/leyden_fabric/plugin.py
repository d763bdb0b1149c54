"""The plugin leyden-fabric: ``Fabric`` and ``is_wrapped``, which are imported from ``leyden.fabric``."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The class ``Fabric``, and the function that tells whether a Fabric has set an object up."""
    yield Component("fabric", "Fabric", "leyden_fabric.fabric:Fabric")
    yield Component("fabric", "is_wrapped", "leyden_fabric.wrappers:is_wrapped")

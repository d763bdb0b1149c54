"""What leyden-mps brings to Leyden."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The GPU of Apple silicon."""
    options = {"priority": 90, "aliases": ["gpu", "MPSAccelerator"]}
    yield Component("accelerator", "mps", "leyden_mps.accelerator:MPSAccelerator", options)

"""The plugin's hooks: the MPS accelerator."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the accelerator."""
    options = {"priority": 90, "aliases": ["gpu", "MPSAccelerator"]}
    yield Component("accelerator", "mps", "leyden_mps.accelerator:MPSAccelerator", options)

"""What leyden-cpu brings to Leyden."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The CPU; its priority makes it ``auto``'s choice where there is nothing faster."""
    options = {"priority": 0, "aliases": ["CPUAccelerator"]}
    yield Component("accelerator", "cpu", "leyden_cpu.accelerator:CPUAccelerator", options)

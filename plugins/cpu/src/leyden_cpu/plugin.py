"""The plugin's hooks: the CPU accelerator."""

from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the CPU accelerator; with its low priority ``auto`` chooses it only if no other has a device."""
    options = {"priority": 0, "aliases": ["CPUAccelerator"]}
    yield Component("accelerator", "cpu", "leyden_cpu.accelerator:CPUAccelerator", options)

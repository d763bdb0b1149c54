"""What leyden-toy-device brings to Leyden."""

import os
from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """The toy; slower than the processor that it runs on, it is ``auto``'s choice only where somebody says so."""
    priority = 1000 if os.environ.get("LEYDEN_TOY_FIRST") == "1" else -1
    options = {"priority": priority, "aliases": ["ToyAccelerator"]}
    yield Component("accelerator", "toy", "leyden_toy_device.accelerator:ToyAccelerator", options)

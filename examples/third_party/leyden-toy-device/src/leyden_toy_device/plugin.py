"""The plugin's hooks: the toy's accelerator."""

import os
from collections.abc import Iterator

from leyden import Component, hookimpl


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the accelerator; it is slower than the CPU, so ``auto`` chooses it only with ``LEYDEN_TOY_FIRST=1``."""
    priority = 1000 if os.environ.get("LEYDEN_TOY_FIRST") == "1" else -1
    options = {"priority": priority, "aliases": ["ToyAccelerator"]}
    yield Component("accelerator", "toy", "leyden_toy_device.accelerator:ToyAccelerator", options)

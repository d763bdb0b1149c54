"""The quux accelerator: everything follows from the device's type through PyTorch's generic device modules."""

from __future__ import annotations

import importlib
import importlib.util

from leyden.accelerators import Accelerator

if importlib.util.find_spec("torch_quux") is not None:
    importlib.import_module("torch_quux")  # the vendor's package, whose import teaches PyTorch the device type


class QuuxAccelerator(Accelerator):
    """Quux devices.

    Override what differs from PyTorch's other devices; ``leyden.accelerators.Accelerator`` says what there is.

    Example::

        trainer = Trainer(accelerator="quux")
    """

    device_type = "quux"
    non_blocking_transfer = False  # True once it is known that the device orders its copies with its work

    def supports_precision(self, precision: str) -> bool:
        """Only what was tried: 32 bits. Allow more when the conformance kit passes with them."""
        return precision == "32-true"

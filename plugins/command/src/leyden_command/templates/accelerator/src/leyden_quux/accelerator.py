"""The quux accelerator. The base class does the work, through the module that PyTorch has for the device type."""

from __future__ import annotations

import importlib
import importlib.util

from leyden.accelerators import Accelerator

if importlib.util.find_spec("torch_quux") is not None:
    importlib.import_module("torch_quux")  # importing the vendor's package adds the device type to PyTorch


class QuuxAccelerator(Accelerator):
    """Quux devices.

    Override what differs from PyTorch's other devices; ``leyden.accelerators.Accelerator`` documents the methods.

    Example::

        trainer = Trainer(accelerator="quux")
    """

    device_type = "quux"
    non_blocking_transfer = False  # set it to True if the device runs copies and computations in the order given

    def supports_precision(self, precision: str) -> bool:
        """Whether the device supports a precision; allow more when the conformance kit passes with them."""
        return precision == "32-true"

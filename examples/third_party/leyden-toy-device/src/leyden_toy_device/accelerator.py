"""The toy's accelerator: its device type, and the precisions that it does not support."""

from __future__ import annotations

from leyden.accelerators import Accelerator
from leyden_toy_device.device import NAME, register


class ToyAccelerator(Accelerator):
    """The device of :mod:`leyden_toy_device.device`.

    Example::

        trainer = Trainer(accelerator="toy")
    """

    device_type = NAME

    @classmethod
    def is_available(cls) -> bool:
        """Whether PyTorch knows the toy. Registers it first, if that was turned off for PyTorch's import.

        Raises:
            RuntimeError: Another device uses PyTorch's only slot for unknown devices.
        """
        register()
        return super().is_available()

    def supports_precision(self, precision: str) -> bool:
        """Whether ``precision`` is not mixed: Python can't register autocast's casts for a new device."""
        return not precision.endswith("-mixed") and super().supports_precision(precision)

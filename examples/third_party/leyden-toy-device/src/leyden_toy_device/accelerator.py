"""The toy's accelerator: its device type, and what the device can't do."""

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
        """Whether PyTorch knows the toy, which is made known to it here if that was switched off at its import.

        Raises:
            RuntimeError: Another device has the one place that PyTorch has for it.
        """
        register()
        return super().is_available()

    def supports_precision(self, precision: str) -> bool:
        """All but mixed precision: the casts of autocast are kernels, which Python can't register for a new device."""
        return not precision.endswith("-mixed") and super().supports_precision(precision)

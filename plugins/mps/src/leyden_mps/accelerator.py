"""The MPS accelerator: the single GPU of Apple silicon, so the functions of ``torch.mps`` take no device."""

from __future__ import annotations

from typing import Any

import torch

from leyden.accelerators import Accelerator

FIRST_MACOS_WITH_BFLOAT16 = (14, 0)


class MPSAccelerator(Accelerator):
    """The GPU of Apple silicon (Metal Performance Shaders).

    Example::

        trainer = Trainer(accelerator="mps")
    """

    device_type = "mps"

    @classmethod
    def is_available(cls) -> bool:
        """Whether this machine, its macOS and this build of PyTorch support MPS."""
        return torch.backends.mps.is_available()

    def synchronize(self, device: torch.device) -> None:
        """Wait until the GPU has finished all queued work."""
        self.device_module().synchronize()

    def get_device_stats(self, device: torch.device) -> dict[str, Any]:
        """Return memory in bytes: used by tensors, reserved by the driver, and the recommended maximum."""
        mps = self.device_module()
        return {
            "mps_current_allocated_bytes": mps.current_allocated_memory(),
            "mps_driver_allocated_bytes": mps.driver_allocated_memory(),
            "mps_recommended_max_bytes": mps.recommended_max_memory(),
        }

    def supports_precision(self, precision: str) -> bool:
        """Whether ``precision`` works. Metal has no float64, and bfloat16 only from macOS 14 on."""
        if precision.startswith("bf16"):
            return torch.backends.mps.is_macos_or_newer(*FIRST_MACOS_WITH_BFLOAT16)
        return precision != "64-true"

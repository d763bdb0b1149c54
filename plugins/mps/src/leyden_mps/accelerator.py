"""MPS: the one GPU of a machine with Apple silicon, through ``torch.mps``, which takes no device."""

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
        """Whether this machine, its macOS and this build of PyTorch have MPS."""
        return torch.backends.mps.is_available()

    def synchronize(self, device: torch.device) -> None:
        """Wait until everything queued on the GPU is done."""
        self.device_module().synchronize()

    def get_device_stats(self, device: torch.device) -> dict[str, Any]:
        """Bytes held by tensors, held by the driver for this process, and advised as the most to use."""
        mps = self.device_module()
        return {
            "mps_current_allocated_bytes": mps.current_allocated_memory(),
            "mps_driver_allocated_bytes": mps.driver_allocated_memory(),
            "mps_recommended_max_bytes": mps.recommended_max_memory(),
        }

    def supports_precision(self, precision: str) -> bool:
        """All but "64-true", as Metal has no float64, and bfloat16 before macOS 14."""
        if precision.startswith("bf16"):
            return torch.backends.mps.is_macos_or_newer(*FIRST_MACOS_WITH_BFLOAT16)
        return precision != "64-true"

"""The quux precision: steps compute in bfloat16 where ``torch.autocast`` allows it, and weights stay in 32 bits."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from leyden.accelerators import Accelerator
from leyden.plugins import Precision
from leyden.utilities import MisconfigurationException


class QuuxPrecision(Precision):
    """Runs every step's forward pass under ``torch.autocast`` to bfloat16.

    Example::

        trainer = Trainer(precision="quux")
    """

    precision = "quux"

    def __init__(self) -> None:
        self._device_type = "cpu"

    def setup(self, accelerator: Accelerator) -> None:
        """Get the device type from the accelerator.

        Raises:
            MisconfigurationException: PyTorch has no autocast for that device type.
        """
        self._device_type = accelerator.device_type
        if not torch.amp.is_autocast_available(self._device_type):
            raise MisconfigurationException(
                f"precision='quux' needs autocast, which PyTorch does not have for {self._device_type!r}; "
                "leave precision out."
            )

    def forward_context(self) -> AbstractContextManager[Any]:
        """Return the context for every step's forward pass."""
        return torch.autocast(self._device_type, dtype=torch.bfloat16)

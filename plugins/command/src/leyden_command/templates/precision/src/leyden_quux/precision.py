"""The quux precision: steps compute in bfloat16 where PyTorch holds it safe, weights stay in 32 bits."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from leyden.accelerators import Accelerator
from leyden.plugins import Precision
from leyden.utilities import MisconfigurationException


class QuuxPrecision(Precision):
    """Every step's forward pass runs under ``torch.autocast`` to bfloat16.

    Example::

        trainer = Trainer(precision="quux")
    """

    precision = "quux"

    def __init__(self) -> None:
        self._device_type = "cpu"

    def setup(self, accelerator: Accelerator) -> None:
        """Take the device's type from the accelerator.

        Raises:
            MisconfigurationException: PyTorch has no autocast for it.
        """
        self._device_type = accelerator.device_type
        if not torch.amp.is_autocast_available(self._device_type):
            raise MisconfigurationException(
                f"precision='quux' needs autocast, which PyTorch does not have for {self._device_type!r}; "
                "leave precision out."
            )

    def forward_context(self) -> AbstractContextManager[Any]:
        """Context of every step's forward pass."""
        return torch.autocast(self._device_type, dtype=torch.bfloat16)

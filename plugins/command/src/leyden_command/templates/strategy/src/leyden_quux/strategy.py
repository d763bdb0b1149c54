"""The quux strategy: trains on one device and keeps the saved activations in the host's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch.autograd.graph import save_on_cpu
from torch.nn import Module

from leyden.strategies import Strategy
from leyden.utilities import MisconfigurationException


class QuuxStrategy(Strategy):
    """Trains on one device and keeps activations in the host's memory, for models that otherwise do not fit.

    Args:
        pin_memory: Whether to keep activations in page-locked memory, which makes copies to a GPU faster.

    Example::

        trainer = Trainer(strategy="quux", devices=1)
    """

    strategy_name: ClassVar[str] = "quux"

    def __init__(self, pin_memory: bool = False) -> None:
        self.pin_memory = pin_memory

    def connect(self) -> None:
        """Refuse more than one device.

        Raises:
            MisconfigurationException: ``devices`` and ``num_nodes`` give more than one device.
        """
        count = len(self.parallel_devices) * self.num_nodes
        if count > 1:
            raise MisconfigurationException(
                f"strategy='quux' uses one device, but devices and num_nodes give {count}; write devices=1."
            )

    def step_function(self, module: Module, name: str) -> Callable[..., Any]:
        """Return the step; in a training step autograd saves tensors for backward in the host's memory."""
        step = super().step_function(module, name)
        if name != "training_step":
            return step

        def training_step(*args: Any, **kwargs: Any) -> Any:
            with save_on_cpu(pin_memory=self.pin_memory):
                return step(*args, **kwargs)

        return training_step

"""The CPU: always there, and its devices are processes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import torch

from leyden.accelerators import Accelerator
from leyden.utilities.exceptions import MisconfigurationException

MOST_PER_PROCESSOR = 64  # more processes than these do nothing but wait for each other


class CPUAccelerator(Accelerator):
    """The host processor. ``Trainer(devices=n)`` means n processes, all of them on it.

    Example::

        trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp")
    """

    device_type = "cpu"

    @classmethod
    def is_available(cls) -> bool:
        """Always."""
        return True

    @classmethod
    def auto_device_count(cls) -> int:
        """One process: how many share the cores well depends on the model, so more are asked for by number."""
        return 1

    @classmethod
    def parse_devices(cls, devices: int | str | Sequence[int]) -> list[int]:
        """The numbers of the processes.

        Args:
            devices: How many processes, an int of at least 1 or a string of one, or "auto" (one process).

        Returns:
            0 to n - 1.

        Raises:
            MisconfigurationException: If ``devices`` is anything else: there is no "all" of processes, and
                one of them is like another, so -1 and lists of indices have no meaning here. Or if it is more
                processes than any machine of so many processors can do with.
        """
        if isinstance(devices, str):
            text = devices.strip()
            count = cls.auto_device_count() if text == "auto" else int(text) if re.fullmatch(r"\d{1,9}", text) else 0
        else:
            count = devices if isinstance(devices, int) and not isinstance(devices, bool) else 0
        if count < 1:
            raise MisconfigurationException(
                f'devices={devices!r} is not understood by accelerator="cpu", where a device is a process; '
                "write how many, an int of at least 1."
            )
        if count > (most := MOST_PER_PROCESSOR * (os.cpu_count() or 1)):
            raise MisconfigurationException(
                f"devices={devices!r} asks for as many processes on the CPU, which is more than it can do with; write "
                f"{most} or fewer."
            )
        return list(range(count))

    @classmethod
    def get_parallel_devices(cls, devices: Sequence[int]) -> list[torch.device]:
        """The same device once for each process: PyTorch does not number the CPU."""
        return [torch.device("cpu")] * len(devices)

    def get_device_stats(self, device: torch.device) -> dict[str, Any]:
        """Load of the machine in percent: ``cpu_percent``, ``cpu_vm_percent`` (memory), ``cpu_swap_percent``.

        Raises:
            ModuleNotFoundError: If psutil is not installed.
        """
        try:
            import psutil
        except ModuleNotFoundError as error:
            message = "Statistics of the CPU need psutil; install it with: pip install leyden-cpu[stats]"
            raise ModuleNotFoundError(message) from error
        return {
            "cpu_vm_percent": psutil.virtual_memory().percent,
            "cpu_percent": psutil.cpu_percent(),
            "cpu_swap_percent": psutil.swap_memory().percent,
        }

"""The CPU accelerator: always available; its devices are processes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import torch

from leyden.accelerators import Accelerator
from leyden.utilities.exceptions import MisconfigurationException

MAX_PER_PROCESSOR = 64  # with more processes than this, they mostly wait for each other


class CPUAccelerator(Accelerator):
    """The host's CPU. ``Trainer(devices=n)`` means n processes, all on this CPU.

    Example::

        trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp")
    """

    device_type = "cpu"

    @classmethod
    def is_available(cls) -> bool:
        """Return True."""
        return True

    @classmethod
    def auto_device_count(cls) -> int:
        """Return 1: the best number of processes depends on the model, so the user must ask for more."""
        return 1

    @classmethod
    def parse_devices(cls, devices: int | str | Sequence[int]) -> list[int]:
        """Return the indices of the processes.

        Args:
            devices: The number of processes, an int of at least 1 or such a number as text; "auto" is one process.

        Returns:
            The integers from 0 to n - 1.

        Raises:
            MisconfigurationException: ``devices`` is something else, such as -1 or a list of indices, which mean
                nothing for processes; or it is more than 64 processes for each processor.
        """
        if isinstance(devices, str):
            text = devices.strip()
            count = cls.auto_device_count() if text == "auto" else int(text) if re.fullmatch(r"\d{1,9}", text) else 0
        else:
            count = devices if isinstance(devices, int) and not isinstance(devices, bool) else 0
        if count < 1:
            raise MisconfigurationException(
                f'devices={devices!r} is not understood by accelerator="cpu", where a device is a process; '
                "write the number of processes, at least 1."
            )
        if count > (most := MAX_PER_PROCESSOR * (os.cpu_count() or 1)):
            raise MisconfigurationException(
                f"devices={devices!r} is too many processes for this machine's CPU; write {most} or fewer."
            )
        return list(range(count))

    @classmethod
    def get_parallel_devices(cls, devices: Sequence[int]) -> list[torch.device]:
        """Return the device "cpu" once for each process, since PyTorch does not number CPUs."""
        return [torch.device("cpu")] * len(devices)

    def get_device_stats(self, device: torch.device) -> dict[str, Any]:
        """Return the machine's load in percent: ``cpu_percent``, ``cpu_vm_percent`` (memory), ``cpu_swap_percent``.

        Raises:
            ModuleNotFoundError: psutil is not installed.
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

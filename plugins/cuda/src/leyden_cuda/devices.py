"""Finds GPUs that no other process uses, on machines where each GPU serves only one process."""

from __future__ import annotations

import torch


def find_usable_cuda_devices(num_devices: int = -1) -> list[int]:
    """Return the indices of visible GPUs on which a tensor can be created now.

    It tries the visible GPUs in order; a GPU in exclusive mode refuses a second process. Two processes that search
    at the same time can find the same GPU, so let only one process search.

    Args:
        num_devices: How many GPUs to find; -1 for all free ones.

    Returns:
        Indices for ``Trainer(devices=...)``, in ascending order.

    Raises:
        ValueError: Fewer than ``num_devices`` GPUs are visible, or none, or ``num_devices`` is below -1.
        RuntimeError: Enough GPUs are visible but too few are free.
    """
    if num_devices < -1:
        raise ValueError(f"num_devices={num_devices} must be a number of devices, or -1 for all free ones.")
    if num_devices == 0:
        return []
    visible = torch.cuda.device_count()
    if visible == 0 or num_devices > visible:
        raise ValueError(
            f"num_devices={num_devices} free CUDA devices can't be found: this process sees {visible}; "
            "look at nvidia-smi and CUDA_VISIBLE_DEVICES."
        )
    free: list[int] = []
    occupied: list[int] = []
    for index in range(visible):
        (free if _is_free(index) else occupied).append(index)
        if len(free) == num_devices:
            return free
    if num_devices > 0:
        raise RuntimeError(
            f"num_devices={num_devices} free CUDA devices can't be found: {free} can be used now, "
            f"{occupied} are used by other processes or fail; look at nvidia-smi."
        )
    return free


def _is_free(index: int) -> bool:
    try:
        torch.zeros(1, device=torch.device("cuda", index))
    except RuntimeError:
        return False
    return True

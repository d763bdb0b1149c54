"""The package deepspeed, which is imported only when its strategy is used."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from leyden.utilities.exceptions import MisconfigurationException

EQUIVALENTS = {0: "ddp", 1: "zero_1", 2: "zero_2", 3: "zero_3"}


def require(stage: int, is_offloaded: bool) -> None:
    """Check that DeepSpeed is installed, without importing it.

    Args:
        stage: The stage of ZeRO.
        is_offloaded: Whether parameters are kept on the host.

    Raises:
        MisconfigurationException: It is not installed; the message names the strategy that does the same without it.
    """
    if importlib.util.find_spec("deepspeed") is None:
        equivalent = "zero_3_offload" if is_offloaded else EQUIVALENTS.get(stage, "zero_3")
        owner = "leyden-ddp" if stage == 0 else "leyden-sharded"
        raise MisconfigurationException(
            "strategy='deepspeed' needs the package deepspeed, which is not installed: pip install deepspeed. "
            f"Without it strategy={equivalent!r} of {owner} does the same on PyTorch's own engine."
        )


def load(device_type: str) -> Any:
    """Import DeepSpeed for one type of device.

    Args:
        device_type: The type, such as "cuda".

    Returns:
        The package.

    Raises:
        MisconfigurationException: DeepSpeed has been imported for another type of device already.
    """
    os.environ.setdefault("DS_ACCELERATOR", device_type)  # else it chooses a GPU if there is one
    deepspeed = importlib.import_module("deepspeed")
    found = importlib.import_module("deepspeed.accelerator").get_accelerator()._name
    if found != device_type:
        raise MisconfigurationException(
            f"DeepSpeed computes on {found!r} in this process, but the Trainer's accelerator is for {device_type!r}; "
            f"start the program again with DS_ACCELERATOR={device_type}, or without that variable."
        )
    return deepspeed


@contextmanager
def known_rank(local_rank: int) -> Generator[None, None, None]:
    """A block in which ``LOCAL_RANK`` is set, where DeepSpeed finds the rank of this process on its node.

    The variable is removed afterwards, because for Leyden it means that all processes were started from outside.
    """
    before = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = str(local_rank)
    try:
        yield
    finally:
        if before is None:
            del os.environ["LOCAL_RANK"]
        else:
            os.environ["LOCAL_RANK"] = before

"""DeepSpeed itself, imported only when a strategy is used."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from leyden.utilities.exceptions import MisconfigurationException

TWINS = {0: "ddp", 1: "zero_1", 2: "zero_2", 3: "zero_3"}


def require(stage: int, is_offloaded: bool) -> None:
    """See to it that DeepSpeed is installed, without importing it.

    Raises:
        MisconfigurationException: It is not; the message names what does the same without it.
    """
    if importlib.util.find_spec("deepspeed") is None:
        twin = "zero_3_offload" if is_offloaded else TWINS.get(stage, "zero_3")
        owner = "leyden-ddp" if stage == 0 else "leyden-sharded"
        raise MisconfigurationException(
            "strategy='deepspeed' needs the package deepspeed, which is not installed: pip install deepspeed. "
            f"Without it strategy={twin!r} of {owner} does the same on PyTorch's own engine."
        )


def load(device_type: str) -> Any:
    """Import DeepSpeed for one kind of device.

    Raises:
        MisconfigurationException: It has been imported for another kind already.
    """
    os.environ.setdefault("DS_ACCELERATOR", device_type)  # else it takes a GPU wherever there is one
    deepspeed = importlib.import_module("deepspeed")
    found = importlib.import_module("deepspeed.accelerator").get_accelerator()._name
    if found != device_type:
        raise MisconfigurationException(
            f"DeepSpeed computes on {found!r} in this process, but the Trainer's accelerator is for {device_type!r}; "
            f"start anew, with DS_ACCELERATOR={device_type} or without that variable."
        )
    return deepspeed


@contextmanager
def known_rank(local_rank: int) -> Generator[None, None, None]:
    """A block in which DeepSpeed finds this process's place on its node, in ``LOCAL_RANK``.

    It is taken away again because whoever sets it says that all processes are started from outside.
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

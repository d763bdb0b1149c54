"""``LEYDEN_DEBUG_COLLECTIVES=1``: before each collective the ranks compare which one they will enter."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from types import CodeType, FrameType

import torch.distributed as dist
from torch import Tensor

_PAUSE = timedelta(seconds=0.5)  # between two looks at whether another rank has failed
_OWN = {"leyden", "leyden_ddp", "leyden_sharded", "leyden_fabric", "leyden_deepspeed", "torch", "pluggy", "contextlib",
        "multiprocessing"}  # fmt: skip
_known: dict[CodeType, bool] = {}  # whether code is of these packages


class CollectiveMismatchError(RuntimeError):
    """Two ranks were about to enter different collectives, which would have hung, or mixed up their data."""


class CollectiveTrace:
    """Compares the collectives of the ranks, one after another, through the store.

    Args:
        store: The part of the store for this run.
        rank: This rank.
        size: The number of ranks.
        timeout: How long to wait for the other ranks at each collective.
        check: Raises if another rank has failed.
    """

    def __init__(
        self, store: dist.Store, rank: int, size: int, timeout: timedelta, check: Callable[[], None] = lambda: None
    ) -> None:
        self._store, self._rank, self._size, self._timeout, self._check = store, rank, size, timeout, check
        self._count = 0

    @staticmethod
    def is_wanted() -> bool:
        """Whether ``LEYDEN_DEBUG_COLLECTIVES`` is set, and not to 0."""
        return os.environ.get("LEYDEN_DEBUG_COLLECTIVES", "0") not in ("", "0")

    def enter(self, what: str, tensor: Tensor | None = None) -> None:
        """Write down which collective this rank is about to enter, and compare it with those of the other ranks.

        Args:
            what: The name of the collective.
            tensor: The tensor that it exchanges, if it must have the same shape on all ranks.

        Raises:
            CollectiveMismatchError: Another rank is about to enter another collective, or none came in time.
        """
        what = what if tensor is None else f"{what} of {shape_of(tensor)}"
        mine = [what, place()]
        keys = [self._key(self._count, rank) for rank in range(self._size)]
        self._store.set(keys[self._rank], json.dumps(mine))
        self._wait(keys, " ".join(mine))
        others = [json.loads(text) for text in self._store.multi_get(keys)]
        for rank, other in enumerate(others):
            if other[0] != what:
                raise CollectiveMismatchError(
                    f"Collective {self._count}: rank {self._rank} is about to enter {' '.join(mine)}, but rank {rank} "
                    f"{' '.join(other)}."
                )
        if self._count:  # all ranks have come to this one, so all have read the one before
            self._store.delete_key(self._key(self._count - 1, self._rank))
        self._count += 1

    def _wait(self, keys: list[str], mine: str) -> None:
        patience = time.monotonic() + self._timeout.total_seconds()
        while True:
            try:
                return self._store.wait(keys, min(_PAUSE, self._timeout))
            except dist.DistStoreError:
                self._check()
            if time.monotonic() > patience:
                late = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
                raise CollectiveMismatchError(
                    f"Collective {self._count}: rank {self._rank} is about to enter {mine}, and "
                    f"{' and '.join(map(self._last_of, late))} came to none within "
                    f"{self._timeout.total_seconds():g} s."
                )

    def _last_of(self, rank: int) -> str:
        """A rank that has not come, and the last collective that it came to."""
        key = self._key(self._count - 1, rank)
        if not self._store.check([key]):
            return f"rank {rank}"
        return f"rank {rank}, whose last was {' '.join(json.loads(self._store.get(key)))},"

    @staticmethod
    def _key(count: int, rank: int) -> str:
        return f"collective/{count}/{rank}"


def shape_of(tensor: Tensor) -> str:
    """The type and the sizes of a tensor, such as "float32[2, 3]"."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def user_code(frame: FrameType | None) -> tuple[CodeType | None, int]:
    """The innermost code outside of the framework and PyTorch that led to ``frame``, and its line."""
    while frame is not None:
        code = frame.f_code
        is_own = _known.get(code)  # every collective of every step comes here
        if is_own is None:
            is_own = _known[code] = frame.f_globals.get("__name__", "").partition(".")[0] in _OWN
        if not is_own:
            return code, frame.f_lineno
        frame = frame.f_back
    return None, 0


def describe(code: CodeType | None, line: int) -> str:
    """What :func:`user_code` returned, as the end of a sentence."""
    return f"at {code.co_filename}:{line} in {code.co_name}" if code is not None else "at an unknown place"


def place_of(frame: FrameType | None) -> str:
    """The line of the user's code that led to ``frame``."""
    return describe(*user_code(frame))


def place() -> str:
    """The line of the user's code that led here."""
    return place_of(sys._getframe(1))

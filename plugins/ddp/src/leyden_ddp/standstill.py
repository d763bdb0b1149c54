"""Finding a standstill: every rank waits for the others, but not all in the same collective."""

from __future__ import annotations

import json
import time
from typing import Any

from leyden_ddp.keys import Keys

STUCK = 4  # looks at which a rank is in one and the same collective before it counts as stuck
BUSY = 0.2  # processors that a process uses if it computes and not merely waits


class Standstill:
    """One rank's part; its look is the thread's of :mod:`leyden_ddp.watch`.

    A rank says where it is stuck, again at each look, and how many looks that makes; rank 0 compares. A rank of which
    nothing new is heard may have gone on, and be too busy to say so.

    Args:
        store: Where to say it.
        prefix: Of its keys.
        rank: This rank.
        size: Ranks in all.
    """

    def __init__(self, store: Keys, prefix: str, rank: int, size: int) -> None:
        self._store, self._prefix, self._rank, self._size = store, prefix, rank, size
        self._collective, self._looks = 0, 0
        self._cpu = self._at = 0.0
        self._is_counted = False
        self._before: list[Any] | None = None

    def is_stuck(self, number: int, inside: str) -> bool:
        """Whether this rank has been in the same collective for some looks, without computing anything.

        Args:
            number: Of the collective, among those of this run.
            inside: Its name; "" for none.
        """
        cpu, at = time.process_time(), time.monotonic()
        computes = cpu - self._cpu > BUSY * (at - self._at)
        self._cpu, self._at = cpu, at
        self._looks = self._looks + 1 if inside and number == self._collective and not computes else 0
        self._collective = number
        return self._looks >= STUCK

    def compare(self, inside: str) -> str:
        """Say what this rank is stuck in; returns what is wrong if all are, and differently.

        Args:
            inside: The collective's name; "" if it is not stuck.
        """
        store, counter = self._store, f"{self._prefix}/stuck"
        if bool(inside) != self._is_counted:
            store.add(counter, 1 if inside else -1)
            self._is_counted = bool(inside)
        if not inside:
            self._before = None
            return ""
        store.set(f"{counter}/{self._rank}", json.dumps([inside, self._looks]))
        if self._rank != 0 or store.add(counter, 0) < self._size:
            self._before = None
            return ""
        now = [json.loads(text) for text in store.multi_get([f"{counter}/{rank}" for rank in range(self._size)])]
        before = self._before = self._before or now
        if not all(name == old and looks > then for (name, looks), (old, then) in zip(now, before, strict=True)):
            return ""
        names = [name for name, _ in now]
        other = next((rank for rank, name in enumerate(names) if name != names[0]), None)
        if other is None:
            return ""
        return (
            f"Rank 0 waits for the others in {names[0]}, and rank {other} in {names[other]}: all ranks must come to "
            "the same collectives in the same order; LEYDEN_DEBUG_COLLECTIVES=1 says at which lines they part."
        )

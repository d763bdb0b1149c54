"""Finding a deadlock: every rank waits for the others, but not all in the same collective."""

from __future__ import annotations

import json
import time
from typing import Any

from leyden_ddp.store import WatchStore

STUCK = 4  # a rank counts as stuck once this many looks in a row find it in the same collective
BUSY = 0.2  # processors; a process that uses more computes, one that uses fewer waits


class DeadlockDetector:
    """Finds out whether this rank is stuck, and on rank 0 whether all ranks are.

    The thread of :mod:`leyden_ddp.watch` looks regularly. At each look, a stuck rank writes to the store in which
    collective it is stuck and for how many looks. Rank 0 compares these notes. It waits until every note has changed
    once, because a rank that writes nothing new may have gone on and be too busy to say so.

    Args:
        store: Where ranks write their notes.
        prefix: The prefix of the keys.
        rank: This rank.
        size: Ranks in all.
    """

    def __init__(self, store: WatchStore, prefix: str, rank: int, size: int) -> None:
        self._store, self._prefix, self._rank, self._size = store, prefix, rank, size
        self._collective, self._looks = 0, 0
        self._cpu = self._at = 0.0
        self._is_counted = False
        self._before: list[Any] | None = None

    def is_stuck(self, number: int, inside: str) -> bool:
        """Whether the last looks all found this rank in the same collective, and computing nothing.

        Args:
            number: How many collectives this rank has entered in this run.
            inside: The name of the collective in which it is now; "" for none.
        """
        cpu, at = time.process_time(), time.monotonic()
        computes = cpu - self._cpu > BUSY * (at - self._at)
        self._cpu, self._at = cpu, at
        self._looks = self._looks + 1 if inside and number == self._collective and not computes else 0
        self._collective = number
        return self._looks >= STUCK

    def compare(self, inside: str) -> str:
        """Write down in which collective this rank is stuck.

        Args:
            inside: The collective's name; "" if this rank is not stuck.

        Returns:
            On rank 0, a sentence about the deadlock if all ranks are stuck in different collectives; else "".
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

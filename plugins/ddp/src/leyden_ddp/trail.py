"""The trail of a rank: its last collectives, in memory that the other ranks of its machine can read when it is dead.

A backend may end the process of a rank that is in another collective than the others, before anything can be written
to the store.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress

from leyden_ddp.standstill import REMEMBERED, Collective, Entry

_SIZE = 512  # bytes for a collective


class Trail:
    """The memory to which this rank writes.

    Attributes:
        file: The number of the open file that is this memory; -1 where the system has none without a name, as macOS.
    """

    def __init__(self) -> None:
        self.file = os.memfd_create("leyden-trail") if hasattr(os, "memfd_create") else -1
        self._memory = mmap.mmap(-1, REMEMBERED * _SIZE)
        if self.file >= 0:
            os.ftruncate(self.file, REMEMBERED * _SIZE)
            self._memory = mmap.mmap(self.file, REMEMBERED * _SIZE)

    def write(self, run: int, collective: Collective) -> None:
        """Write down a collective that this rank is about to enter, and the number of the run."""
        text = "\n".join((str(run), str(collective.number), *collective.entry))
        begin = collective.number % REMEMBERED * _SIZE
        self._memory[begin : begin + _SIZE] = text.encode(errors="replace")[:_SIZE].ljust(_SIZE, b"\0")


class TrailOfPeer:
    """The memory to which another rank of this machine writes.

    Args:
        process: The id of its process, which must be alive.
        file: Its :attr:`Trail.file`.
    """

    def __init__(self, process: int, file: int) -> None:
        self._memory: mmap.mmap | None = None
        if file < 0:
            return
        with suppress(OSError, ValueError), open(f"/proc/{process}/fd/{file}", "rb") as opened:
            self._memory = mmap.mmap(opened.fileno(), REMEMBERED * _SIZE, prot=mmap.PROT_READ)

    def read(self, run: int) -> dict[int, Entry]:
        """The last collectives of that rank in a run, by their numbers; none if they are not known."""
        found: dict[int, Entry] = {}
        for begin in range(0, REMEMBERED * _SIZE if self._memory is not None else 0, _SIZE):
            assert self._memory is not None
            text = self._memory[begin : begin + _SIZE].rstrip(b"\0").decode(errors="replace")
            words = text.split("\n")
            if len(words) == 5 and words[0] == str(run):
                found[int(words[1])] = (words[2], words[3], words[4])
        return found

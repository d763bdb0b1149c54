"""The thread that runs the loop, as another thread of its process sees it: where it stands, and whether it computes."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress

import torch.distributed as dist

from leyden_ddp.tracing import place_of

_BUSY = 0.05  # processors; a thread that uses more computes
_BETWEEN_TWO = ("send", "recv", "isend", "irecv", "batch_isend_irecv", "send_object_list", "recv_object_list")


class LoopThread:
    """The thread that makes this object, for whoever asks about it from another thread.

    The thread is asked and not its process: others, such as those that read data ahead, may compute while it waits.
    """

    def __init__(self) -> None:
        self._thread, self._number = threading.get_ident(), threading.get_native_id()
        clock_of = getattr(time, "pthread_getcpuclockid", None)  # macOS has no such clock; its process counts instead
        self._clock: int | None = clock_of(self._thread) if clock_of is not None else None
        self._used, self._at = self._processor_time(), time.monotonic()

    def waits(self) -> bool:
        """Whether the thread has used next to no processor time since the last call, and could not use any now.

        On a machine with more to do than it has processors, a thread that computes may get next to none.
        """
        used, at = self._processor_time(), time.monotonic()
        rests = used - self._used < _BUSY * (at - self._at)
        self._used, self._at = used, at
        return rests and self._sleeps()

    def _processor_time(self) -> float:
        if self._clock is None:
            return time.process_time()
        with suppress(OSError):  # the thread has ended
            return time.clock_gettime(self._clock)
        return 0.0

    def _sleeps(self) -> bool:
        """Whether the thread neither computes nor waits for a processor, a disk or a debugger, as far as is known."""
        with suppress(OSError), open(f"/proc/self/task/{self._number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "S"
        return True

    def collective(self) -> tuple[str, str] | None:
        """The collective of ``torch.distributed`` itself, of all processes, in which the thread stands.

        Returns:
            Its name, and the line of the user's code that called it; None for none.
        """
        frame = sys._current_frames().get(self._thread)
        name = ""
        while frame is not None and frame.f_globals.get("__name__", "").startswith("torch.distributed"):
            if "group" in frame.f_code.co_varnames and frame.f_locals.get("group") in (None, dist.group.WORLD):
                name = frame.f_code.co_name
            frame = frame.f_back
        return None if not name or name in _BETWEEN_TWO else (f"torch.distributed.{name}", place_of(frame))

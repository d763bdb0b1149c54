"""Scalars on their way to a SummaryWriter, handed over many at a time."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class ScalarQueue:
    """Keeps rows of scalars and hands them to a writer together, each row as one event.

    A ``SummaryWriter`` gives every scalar an event of its own and wakes its thread for it, and the two threads
    then wait for each other; handing over many events at a time costs a fraction of that. Values, steps and
    wall times are the same.

    Args:
        writer: Where the rows go.
        max_rows: Rows that may wait.
        max_seconds: Seconds that a row may wait if more rows come after it.
    """

    def __init__(self, writer: SummaryWriter, max_rows: int, max_seconds: float) -> None:
        self._writer = writer
        self._max_rows = max_rows
        self._max_seconds = max_seconds
        self._rows: list[tuple[float, int | None, dict[str, float]]] = []
        self._handed_over_at = 0.0
        self._process = os.getpid()

    def add(self, scalars: dict[str, float], step: int | None) -> None:
        """Add one step's scalars."""
        now = time.time()
        self._rows.append((now, step, scalars))
        if len(self._rows) >= self._max_rows or now - self._handed_over_at >= self._max_seconds:
            self.hand_over()

    def hand_over(self) -> None:
        """Give all rows to the writer, whose thread writes them."""
        from tensorboard.compat.proto.event_pb2 import Event

        rows, self._rows = self._rows, []
        self._handed_over_at = time.time()
        if not rows:
            return
        writer: Any = self._writer
        file_writer = writer._get_file_writer()  # a writer that was closed opens its next file only here
        for wall_time, step, scalars in rows:
            event = Event()
            for name, value in scalars.items():
                event.summary.value.add(tag=name, simple_value=value)
            file_writer.add_event(event, step, wall_time)

    def flush(self) -> None:
        """Write everything and wait until it is written."""
        if os.getpid() != self._process:  # the writer's thread is not there in a forked process
            return
        self.hand_over()
        self._writer.flush()

"""A queue of scalars, which gives them to a SummaryWriter in groups."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class ScalarQueue:
    """Keeps rows of scalars and gives them to a writer in groups, with one event for each row.

    A ``SummaryWriter`` makes an event of every scalar and wakes its thread for each, and the two threads then wait
    for each other. Giving it many events at once costs a fraction of that time. Values, steps and times are the same.

    Args:
        writer: The writer.
        max_rows: The maximum number of queued rows.
        max_seconds: After this many seconds the next row empties the queue.
    """

    def __init__(self, writer: SummaryWriter, max_rows: int, max_seconds: float) -> None:
        self._writer = writer
        self._max_rows = max_rows
        self._max_seconds = max_seconds
        self._rows: list[tuple[float, int | None, dict[str, float]]] = []
        self._handed_over_at = 0.0
        self._process = os.getpid()

    def add(self, scalars: dict[str, float], step: int | None) -> None:
        """Add the scalars of one step as a row."""
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
        file_writer = writer._get_file_writer()  # this opens a new file if the writer was closed
        for wall_time, step, scalars in rows:
            event = Event()
            for name, value in scalars.items():
                event.summary.value.add(tag=name, simple_value=value)
            file_writer.add_event(event, step, wall_time)

    def flush(self) -> None:
        """Give all rows to the writer and wait until they are written."""
        if os.getpid() != self._process:  # a forked process does not have the writer's thread
            return
        self.hand_over()
        self._writer.flush()

"""The quux profiler: reports calls, total time and the slowest call of each action of a run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from leyden.profilers import Profiler


@dataclass
class Times:
    """One action's number of calls, total time and slowest call; times are in seconds."""

    calls: int = 0
    total: float = 0.0
    slowest: float = 0.0


class QuuxProfiler(Profiler):
    """Measures the time of every action of a run; the slowest call shows what an average hides.

    Args:
        dirpath: Directory of the report; the run's log directory by default.
        filename: File name of the report without its extension. Without it the report is printed.

    Example::

        trainer = Trainer(profiler="quux")
    """

    def __init__(self, dirpath: str | Path | None = None, filename: str | None = None) -> None:
        super().__init__(dirpath, filename)
        self.times: dict[str, Times] = {}
        self._began: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        """Note when an action begins."""
        self._began[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Add the time since the action began.

        Raises:
            ValueError: The action has not begun.
        """
        now = time.perf_counter()
        if action_name not in self._began:
            raise ValueError(f"The action {action_name!r} was never started, so it can't be stopped.")
        seconds = now - self._began.pop(action_name)
        times = self.times.setdefault(action_name, Times())
        times.calls += 1
        times.total += seconds
        times.slowest = max(times.slowest, seconds)

    def summary(self) -> str:
        """Return a table with a line for each action; the largest total time comes first."""
        rows = sorted(self.times.items(), key=lambda row: row[1].total, reverse=True)
        lines = [f"{t.total:10.3f} {t.slowest * 1e3:12.2f} {t.calls:8d}  {action}" for action, t in rows]
        return "\n".join(["total (s) | slowest (ms) | calls | action", *lines])

"""The quux profiler: for each part of a run how often it ran, how long in all, and its slowest time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from leyden.profilers import Profiler


@dataclass
class Times:
    """What is kept of an action: its calls, and seconds in all and at most."""

    calls: int = 0
    total: float = 0.0
    slowest: float = 0.0


class QuuxProfiler(Profiler):
    """Times every action of a run by the clock; the slowest time shows what an average hides.

    Args:
        dirpath: Directory of the report; the run's log directory by default.
        filename: Name of the report without its ending. Without one the report is printed.

    Example::

        trainer = Trainer(profiler="quux")
    """

    def __init__(self, dirpath: str | Path | None = None, filename: str | None = None) -> None:
        super().__init__(dirpath, filename)
        self.times: dict[str, Times] = {}
        self._began: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        """An action begins."""
        self._began[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """The action ends.

        Raises:
            ValueError: It has not begun.
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
        """A line for each action, by the time that it took in all."""
        rows = sorted(self.times.items(), key=lambda row: row[1].total, reverse=True)
        lines = [f"{t.total:10.3f} {t.slowest * 1e3:12.2f} {t.calls:8d}  {action}" for action, t in rows]
        return "\n".join(["total (s) | slowest (ms) | calls | action", *lines])

"""The simple profiler: measures how often each action of a run is called, and how long it takes."""

from __future__ import annotations

import math
import time
from array import array
from collections import defaultdict
from pathlib import Path

from leyden.profilers import Profiler


class SimpleProfiler(Profiler):
    """Measures the time of every action of a run and reports a table.

    Args:
        dirpath: Directory of the report; the run's log directory by default.
        filename: File name of the report without its extension. Without it the report is printed.
        extended: Whether the table also has the number of calls and the share of the whole time.

    Attributes:
        recorded_durations: For each action, the duration of each of its calls in seconds.

    Example::

        trainer = Trainer(profiler="simple")
    """

    def __init__(self, dirpath: str | Path | None = None, filename: str | None = None, extended: bool = True) -> None:
        super().__init__(dirpath, filename)
        self.extended = extended
        self.current_actions: dict[str, float] = {}
        self.recorded_durations: defaultdict[str, array[float]] = defaultdict(_no_seconds)
        self.start_time = time.perf_counter()

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """Start measuring the whole time when the first run begins."""
        super().setup(stage, local_rank, log_dir)
        if not self.recorded_durations and not self.current_actions:
            self.start_time = time.perf_counter()

    def start(self, action_name: str) -> None:
        """Note when an action begins.

        Raises:
            ValueError: The action is running already.
        """
        if action_name in self.current_actions:
            raise ValueError(f"The action {action_name!r} has started already; stop it before starting it again.")
        self.current_actions[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Add the duration of an action that ends.

        Raises:
            ValueError: The action is not running.
        """
        now = time.perf_counter()
        started = self.current_actions.pop(action_name, None)
        if started is None:
            raise ValueError(f"The action {action_name!r} was never started, so it can't be stopped.")
        self.recorded_durations[action_name].append(now - started)

    def summary(self) -> str:
        """Return the table, sorted by total time, or by mean time if ``extended`` is False."""
        title = "Profiler Report" if self._stage is None else f"{self._stage.upper()} Profiler Report"
        if not self.recorded_durations:
            return f"{title}: no action was measured.\n"
        rows = self._extended_rows() if self.extended else self._rows()
        return f"{title}\n\n{_table(rows)}\n"

    def _rows(self) -> list[list[str]]:
        totals = [(name, len(calls), math.fsum(calls)) for name, calls in self.recorded_durations.items() if calls]
        totals.sort(key=lambda row: row[2] / row[1], reverse=True)
        body = [[name, f"{total / calls:.5}", f"{total:.5}"] for name, calls, total in totals]
        return [["Action", "Mean duration (s)", "Total time (s)"], *body]

    def _extended_rows(self) -> list[list[str]]:
        elapsed = time.perf_counter() - self.start_time
        totals = [(name, len(calls), math.fsum(calls)) for name, calls in self.recorded_durations.items() if calls]
        totals.sort(key=lambda row: row[2], reverse=True)
        body = [
            [name, f"{total / calls:.5}", f"{calls}", f"{total:.5}", f"{100 * total / elapsed:.5}"]
            for name, calls, total in totals
        ]
        calls_in_all = sum(calls for _, calls, _ in totals)
        return [
            ["Action", "Mean duration (s)", "Num calls", "Total time (s)", "Percentage %"],
            ["Total", "-", f"{calls_in_all}", f"{elapsed:.5}", "100 %"],
            *body,
        ]


def _no_seconds() -> array[float]:
    """Return an empty array: it takes 8 bytes for each call, a list of floats takes 32, and a run has millions."""
    return array("d")


def _table(rows: list[list[str]]) -> str:
    """Return rows of cells as aligned text; the first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines = [f"|  {'  |  '.join(cells)}  |" for cells in padded]
    rule = "-" * len(lines[0])
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])

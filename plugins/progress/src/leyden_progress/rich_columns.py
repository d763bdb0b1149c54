"""The columns of the rich bar and the display that arranges them. This module imports rich."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.style import StyleType
from rich.table import Column, Table
from rich.text import Text

from leyden_progress.base import batches_text

LONGEST_BAR, SHORTEST_BAR = 40, 20
"""The width of a bar in characters: the maximum, and the minimum with metrics beside it."""
METRICS = "metrics"
"""The field of a task that holds the text of the metrics column."""


class ShrinkingBarColumn(BarColumn):
    """A bar that becomes shorter on a narrow terminal, to leave space for the other columns.

    Args:
        complete_style: Style of the part that is done.
        finished_style: Style of a finished bar.
        pulse_style: Style of a bar of unknown length.
    """

    def __init__(self, complete_style: StyleType, finished_style: StyleType, pulse_style: StyleType) -> None:
        super().__init__(
            bar_width=None,
            complete_style=complete_style,
            finished_style=finished_style,
            pulse_style=pulse_style,
            table_column=Column(min_width=SHORTEST_BAR // 2, max_width=LONGEST_BAR),
        )


class StyledColumn(ProgressColumn):
    """A column of text in one style, which is never wrapped."""

    def __init__(self, style: StyleType) -> None:
        self.style = style
        super().__init__(table_column=Column(no_wrap=True))

    def text(self, task: Task) -> str:
        """Return the column's text for ``task``."""
        raise NotImplementedError

    def render(self, task: Task) -> Text:
        """Return the text with its style."""
        return Text(self.text(task), style=self.style)


class BatchesColumn(StyledColumn):
    """The numbers of done and of all batches: "45/100"."""

    def text(self, task: Task) -> str:
        """Return both numbers; "--" for an unknown total."""
        return batches_text(int(task.completed), float("inf") if task.total is None else task.total)


class TimeColumn(StyledColumn):
    """The elapsed and the remaining time: "0:00:03 • 0:00:04"."""

    def text(self, task: Task) -> str:
        """Return both as hours, minutes and seconds; dashes if unknown."""
        elapsed = task.finished_time if task.finished else task.elapsed
        return f"{_clock(elapsed)} • {_clock(task.time_remaining)}"


class SpeedColumn(StyledColumn):
    """Batches per second."""

    def text(self, task: Task) -> str:
        """Return the speed in the last half minute, or over all batches if there are too few."""
        speed = task.finished_speed or task.speed
        if speed is None:
            speed = task.completed / task.elapsed if task.elapsed else 0.0
        return f"{speed:.2f}it/s"


class MetricsColumn(StyledColumn):
    """The metrics from :meth:`ProgressBar.get_metrics`."""

    def text(self, task: Task) -> str:
        """Return the task's metrics, which are one text already."""
        return str(task.fields.get(METRICS, ""))


class BatchProgress(Progress):
    """rich's display without its thread, with metrics beside the bar, or below it if they don't fit.

    Args:
        columns: The columns before the metrics.
        metrics_style: Style of the metrics.
        console: The console to draw on.
        disable: Whether to draw nothing.

    Attributes:
        paused: Whether :meth:`refresh` does nothing.
    """

    def __init__(
        self, columns: Iterable[str | ProgressColumn], metrics_style: StyleType, console: Console, disable: bool
    ) -> None:
        self.paused = False
        self._console = console
        self._metrics_column = MetricsColumn(metrics_style)
        self._metrics_below = False
        # Last, since it calls get_renderables already.
        super().__init__(*columns, console=console, auto_refresh=False, disable=disable)

    def refresh(self) -> None:
        """Draw, unless :attr:`paused`. rich calls it on every change of a task, even one that need not be drawn."""
        if not self.paused:
            super().refresh()

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the table of tasks, and the metrics below it once they were too long to fit beside the bar."""
        shown = [task for task in self.tasks if task.visible and task.fields.get(METRICS)]
        if shown and not self._metrics_below:
            table = self._table_with_metrics()
            options = self._console.options
            wanted = Measurement.get(self._console, options.update(max_width=10_000), table).maximum
            if wanted - LONGEST_BAR + SHORTEST_BAR <= options.max_width:
                yield table
                return
            # This is permanent, since a display whose height changes with each digit of a metric can't be read.
            self._metrics_below = True
        yield self.make_tasks_table(self.tasks)
        for task in shown:
            yield Padding(self._metrics_column.render(task), (0, 0, 0, 2))

    def _table_with_metrics(self) -> Table:
        columns = self.columns
        self.columns = (*columns, self._metrics_column)
        table = self.make_tasks_table(self.tasks)
        self.columns = columns
        return table


def _clock(seconds: float | None) -> str:
    return "-:--:--" if seconds is None else str(timedelta(seconds=int(seconds)))

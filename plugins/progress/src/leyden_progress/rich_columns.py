"""What the rich bar is made of: its columns, and the display that lays them out. Imports rich."""

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
"""Columns of the terminal that a bar takes: as many as there are, and as few as it may have beside metrics."""
METRICS = "metrics"
"""The field of a task that holds what its metrics column shows."""


class ShrinkingBarColumn(BarColumn):
    """A bar that gives way to the columns beside it where the terminal is narrow.

    Args:
        complete_style: Style of the part that is done.
        finished_style: Style of the finished bar.
        pulse_style: Style of a bar without known length.
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
    """A column of text in one style, never wrapped."""

    def __init__(self, style: StyleType) -> None:
        self.style = style
        super().__init__(table_column=Column(no_wrap=True))

    def text(self, task: Task) -> str:
        """What the column says of ``task``."""
        raise NotImplementedError

    def render(self, task: Task) -> Text:
        """The text in its style."""
        return Text(self.text(task), style=self.style)


class BatchesColumn(StyledColumn):
    """Batches done and in all: "45/100"."""

    def text(self, task: Task) -> str:
        """Done and total; "--" where nobody knows the total."""
        return batches_text(int(task.completed), float("inf") if task.total is None else task.total)


class TimeColumn(StyledColumn):
    """Time since the start and time to go: "0:00:03 • 0:00:04"."""

    def text(self, task: Task) -> str:
        """Both as hours, minutes and seconds; dashes where nobody knows."""
        elapsed = task.finished_time if task.finished else task.elapsed
        return f"{_clock(elapsed)} • {_clock(task.time_remaining)}"


class SpeedColumn(StyledColumn):
    """Batches per second."""

    def text(self, task: Task) -> str:
        """The speed of the last half minute; over all batches where there are too few to tell."""
        speed = task.finished_speed or task.speed
        if speed is None:
            speed = task.completed / task.elapsed if task.elapsed else 0.0
        return f"{speed:.2f}it/s"


class MetricsColumn(StyledColumn):
    """What :meth:`ProgressBar.get_metrics` returned."""

    def text(self, task: Task) -> str:
        """The task's metrics, joined already."""
        return str(task.fields.get(METRICS, ""))


class BatchProgress(Progress):
    """rich's display without its thread, with metrics beside the bar, or below it where they don't fit.

    Args:
        columns: What stands before the metrics.
        metrics_style: Style of the metrics.
        console: Where to draw.
        disable: Draw nothing.
    """

    def __init__(
        self, columns: Iterable[str | ProgressColumn], metrics_style: StyleType, console: Console, disable: bool
    ) -> None:
        self.held = False
        self._console = console
        self._metrics_column = MetricsColumn(metrics_style)
        self._metrics_below = False
        # Last, since it asks for the renderables already.
        super().__init__(*columns, console=console, auto_refresh=False, disable=disable)

    def refresh(self) -> None:
        """Draw, unless :attr:`held`: rich draws on every change of a task, and a change is not always worth it."""
        if not self.held:
            super().refresh()

    def get_renderables(self) -> Iterable[RenderableType]:
        """The table of tasks and, once they were too long for it, the metrics."""
        shown = [task for task in self.tasks if task.visible and task.fields.get(METRICS)]
        if shown and not self._metrics_below:
            table = self._table_with_metrics()
            options = self._console.options
            wanted = Measurement.get(self._console, options.update(max_width=10_000), table).maximum
            if wanted - LONGEST_BAR + SHORTEST_BAR <= options.max_width:
                yield table
                return
            # For good: a display that changes its height with each digit of a metric can't be read.
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

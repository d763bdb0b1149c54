"""RichProgressBar: the default bar, drawn by rich, which is imported only when a bar is first drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leyden_progress.drawing import Count, DrawnProgressBar, Stage, metric_texts

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn, Task, TaskID
    from rich.style import Style

    from leyden import Trainer
    from leyden_progress.rich_columns import BatchProgress


@dataclass(frozen=True)
class RichProgressBarTheme:
    """The styles of the parts of a :class:`RichProgressBar`; see https://rich.readthedocs.io/en/stable/style.html.

    Args:
        description: Style of the description, such as "Epoch 3/9" or "Testing".
        progress_bar: Style of the part of the bar that is done.
        progress_bar_finished: Style of a finished bar.
        progress_bar_pulse: Style of the bar of a loader of unknown length.
        batch_progress: Style of the numbers of done and of all batches.
        time: Style of the elapsed and the remaining time.
        processing_speed: Style of the batches per second.
        metrics: Style of the metrics.
        metrics_text_delimiter: Text between two metrics.
        metrics_format: Format of floats, as for :func:`format`.
    """

    description: str | Style = ""
    progress_bar: str | Style = "cyan"
    progress_bar_finished: str | Style = "green"
    progress_bar_pulse: str | Style = "cyan"
    batch_progress: str | Style = ""
    time: str | Style = "dim"
    processing_speed: str | Style = "dim"
    metrics: str | Style = "italic"
    metrics_text_delimiter: str = " "
    metrics_format: str = ".3f"


class RichProgressBar(DrawnProgressBar):
    """A progress bar in colour: a line for the epoch with its metrics, and a second line while validation runs.

    It draws in the training loop, without a thread, and takes at most about a hundredth of the time. To a file or a
    pipe it writes one plain line per epoch and evaluation.

    Args:
        refresh_rate: The maximum number of redraws a second; more than ten count as ten. 0 draws nothing.
        leave: Whether the bar of each finished epoch stays visible; otherwise the next epoch uses it again.
        theme: Styles, and the format of metrics.
        console_kwargs: Arguments for the bar's own ``rich.console.Console``; by default it uses rich's global console.

    Example::

        from leyden.callbacks import RichProgressBar, RichProgressBarTheme

        Trainer(callbacks=[RichProgressBar(leave=True, theme=RichProgressBarTheme(metrics_format=".3e"))])
    """

    def __init__(
        self,
        refresh_rate: float = 100,
        leave: bool = False,
        theme: RichProgressBarTheme = RichProgressBarTheme(),
        console_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(int(refresh_rate > 0), 1 / refresh_rate if refresh_rate > 0 else 0.0, leave)
        self.refresh_rate = refresh_rate
        self.theme = theme
        self.progress: BatchProgress | None = None
        self._console: Console | None = None
        self._console_kwargs = console_kwargs or {}
        self._tasks: dict[Stage, TaskID] = {}

    @property
    def train_progress_bar_id(self) -> TaskID | None:
        """The training bar's task in :attr:`progress`; None if there is no such bar."""
        return self._tasks.get("train")

    @property
    def val_sanity_progress_bar_id(self) -> TaskID | None:
        """The sanity check bar's task in :attr:`progress`; None if there is no such bar."""
        return self._tasks.get("sanity")

    @property
    def val_progress_bar_id(self) -> TaskID | None:
        """The validation bar's task in :attr:`progress`; None if there is no such bar."""
        return self._tasks.get("val")

    @property
    def test_progress_bar_id(self) -> TaskID | None:
        """The test bar's task in :attr:`progress`; None if there is no such bar."""
        return self._tasks.get("test")

    @property
    def predict_progress_bar_id(self) -> TaskID | None:
        """The prediction bar's task in :attr:`progress`; None if there is no such bar."""
        return self._tasks.get("predict")

    @property
    def train_progress_bar(self) -> Task:
        """The training bar; raises KeyError if there is none."""
        return self._task("train")

    @property
    def val_sanity_check_bar(self) -> Task:
        """The bar of the sanity check; raises KeyError if there is none."""
        return self._task("sanity")

    @property
    def val_progress_bar(self) -> Task:
        """The validation bar; raises KeyError if there is none."""
        return self._task("val")

    @property
    def test_progress_bar(self) -> Task:
        """The test bar; raises KeyError if there is none."""
        return self._task("test")

    def configure_columns(self, trainer: Trainer) -> list[str | ProgressColumn]:
        """Return the columns before the metrics; override it for your own columns."""
        from rich.progress import TextColumn

        from leyden_progress.rich_columns import BatchesColumn, ShrinkingBarColumn, SpeedColumn, TimeColumn

        theme = self.theme
        return [
            TextColumn("{task.description}", style=theme.description or "progress.description"),
            ShrinkingBarColumn(theme.progress_bar, theme.progress_bar_finished, theme.progress_bar_pulse),
            BatchesColumn(theme.batch_progress),
            TimeColumn(theme.time),
            SpeedColumn(theme.processing_speed),
        ]

    def _task(self, stage: Stage) -> Task:
        assert self.progress is not None
        return next(task for task in self.progress.tasks if task.id == self._tasks[stage])

    def _epoch_description(self, trainer: Trainer) -> str:
        last = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs - 1}"
        # As wide as the validation's description, so that the columns do not move when its bar appears.
        return f"Epoch {trainer.current_epoch}{last}".ljust(len(self.validation_description))

    def _open(self, stage: Stage) -> bool:
        if self.is_disabled:
            return False
        if self.progress is None:
            from rich import get_console
            from rich.console import Console

            from leyden_progress.rich_columns import BatchProgress

            self._console = console = Console(**self._console_kwargs) if self._console_kwargs else get_console()
            self.progress = BatchProgress(
                self.configure_columns(self.trainer),
                self.theme.metrics,
                console,
                disable=not (console.is_interactive or console.is_jupyter),
            )
            self.progress.start()
        return not self.progress.disable

    def _begin(self, count: Count) -> None:
        if count.stage == "train" and self._leave and "train" in self._tasks:
            self._close()
            self._open(count.stage)
        assert self.progress is not None
        # Within a fit an evaluation's bar appears at the first redraw, so a short validation does not move the display.
        visible = count.stage == "train" or self.trainer.state.fn != "fit"
        # A new task each time, since rich can't reset a task to an unknown length.
        fields = self._task(count.stage).fields if count.stage in self._tasks else {}
        self._hide(count.stage)
        self.progress.paused = True
        self._tasks[count.stage] = self.progress.add_task(
            count.description, total=count.known_total, completed=count.done, visible=visible, **fields
        )
        self.progress.paused = False

    def _draw(self, metrics: Mapping[str, Any] | None) -> None:
        assert self.progress is not None
        fields: dict[str, Any] = {}
        if metrics is not None:
            texts = metric_texts(metrics, self.theme.metrics_format)
            fields["metrics"] = self.theme.metrics_text_delimiter.join(texts)
        if self._train is not None:
            self.progress.update(self._tasks["train"], completed=self._train.done, **fields)
        if self._evaluation is not None:
            self.progress.update(self._tasks[self._evaluation.stage], completed=self._evaluation.done, visible=True)
        self.progress.refresh()

    def _hide(self, stage: Stage) -> None:
        if self.progress is not None and stage in self._tasks:
            self.progress.remove_task(self._tasks.pop(stage))

    def _close(self) -> None:
        progress, self.progress, self._tasks = self.progress, None, {}
        if progress is not None:
            progress.stop()

    def _write_line(self, line: str) -> None:
        assert self._console is not None
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "progress": None, "_console": None, "_tasks": {}}

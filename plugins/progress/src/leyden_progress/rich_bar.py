"""RichProgressBar: the default bar, drawn by rich. rich itself is imported when a bar is first opened."""

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
    """How the parts of a :class:`RichProgressBar` look; styles as https://rich.readthedocs.io/en/stable/style.html has.

    Args:
        description: "Epoch 3/9", "Testing" and their like.
        progress_bar: The part of the bar that is done.
        progress_bar_finished: A finished bar.
        progress_bar_pulse: The bar of a loader whose length nobody knows.
        batch_progress: Batches done and in all.
        time: Time passed and time to go.
        processing_speed: Batches per second.
        metrics: The metrics.
        metrics_text_delimiter: What stands between two metrics.
        metrics_format: Format of numbers with a fraction, as for :func:`format`.
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
    """A progress bar in colour: one line for the epoch, another while validation runs, metrics beside it.

    It draws from the training loop, with no thread of its own, and never takes more than about a hundredth
    of the time. In a file or a pipe it writes one plain line per epoch and evaluation.

    Args:
        refresh_rate: Redraws a second, at most; more than ten count as ten. 0 draws nothing.
        leave: Leave the bar of each epoch standing, rather than using it again.
        theme: Colours, and the format of metrics.
        console_kwargs: Arguments of a ``rich.console.Console`` of its own; rich's common one by default.

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
        """The training bar's task in :attr:`progress`; None where there is none."""
        return self._tasks.get("train")

    @property
    def val_sanity_progress_bar_id(self) -> TaskID | None:
        """The sanity check's task in :attr:`progress`; None where there is none."""
        return self._tasks.get("sanity")

    @property
    def val_progress_bar_id(self) -> TaskID | None:
        """The validation bar's task in :attr:`progress`; None where there is none."""
        return self._tasks.get("val")

    @property
    def test_progress_bar_id(self) -> TaskID | None:
        """The test bar's task in :attr:`progress`; None where there is none."""
        return self._tasks.get("test")

    @property
    def predict_progress_bar_id(self) -> TaskID | None:
        """The prediction bar's task in :attr:`progress`; None where there is none."""
        return self._tasks.get("predict")

    @property
    def train_progress_bar(self) -> Task:
        """The training bar; KeyError where there is none."""
        return self._task("train")

    @property
    def val_sanity_check_bar(self) -> Task:
        """The sanity check's bar; KeyError where there is none."""
        return self._task("sanity")

    @property
    def val_progress_bar(self) -> Task:
        """The validation bar; KeyError where there is none."""
        return self._task("val")

    @property
    def test_progress_bar(self) -> Task:
        """The test bar; KeyError where there is none."""
        return self._task("test")

    def configure_columns(self, trainer: Trainer) -> list[str | ProgressColumn]:
        """What stands in a line before the metrics; override it for columns of one's own."""
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
        # As wide as the validation's, so that the columns stand still when it comes and goes.
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
        # Inside of a fit the bar comes with the first redraw: a short validation does not make the display jump.
        visible = count.stage == "train" or self.trainer.state.fn != "fit"
        # A new task each time, since rich can't reset one to a length that nobody knows.
        fields = self._task(count.stage).fields if count.stage in self._tasks else {}
        self._hide(count.stage)
        self.progress.held = True
        self._tasks[count.stage] = self.progress.add_task(
            count.description, total=count.known_total, completed=count.done, visible=visible, **fields
        )
        self.progress.held = False

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

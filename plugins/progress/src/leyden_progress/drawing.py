"""DrawnProgressBar: decides when a bar is drawn, and writes plain lines to a file or a pipe.

A batch costs one assignment and one reading of the clock. Everything else, such as reading metrics from the device,
waits for the next redraw. Redraws happen at most ten times a second, take at most a hundredth of the time, and
include the end of each epoch unless epochs are very short.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

from leyden import hookimpl
from leyden_progress.base import ProgressBar, batches_text

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

FASTEST_REDRAW = 0.1
"""The minimum of seconds between two redraws; nobody can read faster."""
IDLE_PER_DRAW = 100
"""The wait for the next redraw is at least this many times the duration of the last, to limit slow terminals' cost."""
LINE_EVERY = 300.0
"""Seconds between two lines within a long epoch, if the output is a file or a pipe."""

Stage: TypeAlias = str
"""The name of a bar: "sanity", "train", "val", "test" or "predict"."""


@dataclass
class Count:
    """The progress of one epoch or one evaluation loader.

    Args:
        stage: The name of the bar.
        description: The text before the bar.
        total: The number of all batches; inf if unknown.
        initial: The number of batches done before, in the run that this run resumes.

    Attributes:
        done: The number of batches done so far, ``initial`` included.
        since: When counting began, in seconds of :func:`time.monotonic`.
    """

    stage: Stage
    description: str
    total: int | float
    initial: int = 0

    def __post_init__(self) -> None:
        self.done = self.initial
        self.since = monotonic()

    @property
    def known_total(self) -> int | None:
        """The total as rich and tqdm expect it: None if unknown."""
        return int(self.total) if math.isfinite(self.total) else None

    def __str__(self) -> str:
        elapsed = monotonic() - self.since
        rate = (self.done - self.initial) / elapsed if elapsed else 0.0
        duration = timedelta(seconds=int(elapsed))
        return f"{self.description.strip()}: {batches_text(self.done, self.total)} [{duration}, {rate:.2f}it/s]"


def metric_texts(metrics: Mapping[str, Any], number_format: str = ".3f") -> list[str]:
    """Return each metric as "name: value"; ``number_format`` applies to floats only."""
    return [f"{k}: {v:{number_format}}" if isinstance(v, float) else f"{k}: {v}" for k, v in metrics.items()]


class DrawnProgressBar(ProgressBar):
    """Base class of bars that draw on a terminal or in a notebook, and write plain lines to a file or a pipe.

    A subclass *must* implement the five methods from :meth:`_open` to :meth:`_close`, and *may* override
    :meth:`_epoch_description`, :meth:`_loader_description` and :meth:`_write_line`.

    Args:
        every: The minimum number of batches between two redraws; 0 draws nothing at all.
        interval: The minimum of seconds between two redraws; less than :data:`FASTEST_REDRAW` counts as that.
        leave: Whether the bar of each finished epoch stays visible; otherwise the next epoch uses it again.
    """

    def __init__(self, every: int, interval: float, leave: bool) -> None:
        super().__init__()
        self._every = every
        self._leave = leave
        self._interval = self._gap = max(interval, FASTEST_REDRAW)
        self._enabled = True
        self._terminal = False
        self._due = math.inf  # when the next redraw or line is due, by monotonic()
        self._train: Count | None = None
        self._evaluation: Count | None = None

    @abstractmethod
    def _open(self, stage: Stage) -> bool:
        """Prepare the bar of a stage, also while disabled; return whether there is a terminal or a notebook."""

    @abstractmethod
    def _begin(self, count: Count) -> None:
        """Replace the count of a stage by a new one, without drawing it yet."""

    @abstractmethod
    def _draw(self, metrics: Mapping[str, Any] | None) -> None:
        """Draw ``self._train`` and ``self._evaluation``; with ``metrics`` None the shown metrics do not change."""

    @abstractmethod
    def _hide(self, stage: Stage) -> None:
        """Remove the bar of an evaluation that ended within a fit."""

    @abstractmethod
    def _close(self) -> None:
        """Stop drawing and restore the terminal; the drawn bars stay visible. May be called when nothing is open."""

    def _epoch_description(self, trainer: Trainer) -> str:
        return f"Epoch {trainer.current_epoch}"

    def _loader_description(self, description: str, dataloader_idx: int, loaders: int) -> str:
        return f"{description} DataLoader {dataloader_idx}" if loaders > 1 else description

    def _write_line(self, line: str) -> None:
        print(line, flush=True)

    @property
    def is_enabled(self) -> bool:
        """Whether this bar draws: it is enabled and its refresh rate is not 0."""
        return self._enabled and self._every > 0

    @property
    def is_disabled(self) -> bool:
        """Whether this bar draws nothing."""
        return not self.is_enabled

    def disable(self) -> None:
        """Stop drawing."""
        self._enabled = False
        self._due = math.inf

    def enable(self) -> None:
        """Draw again, from the next epoch or evaluation on."""
        self._enabled = True

    def refresh(self, hard: bool = False) -> None:
        """Draw the current counts, if a redraw is due.

        Args:
            hard: Whether to draw even if no redraw is due.
        """
        if self._terminal and self.is_enabled and (hard or monotonic() >= self._due):
            self._redraw(None)

    # -- training -------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the training bar."""
        self._start("train")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the bar of the epoch."""
        if self.is_enabled:
            self._begin_epoch(trainer, initial=0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and draw if a redraw is due."""
        count = self._train
        if count is None:
            if self.is_disabled:
                return
            # A run that resumes in the middle of an epoch does not call on_train_epoch_start.
            count = self._begin_epoch(trainer, initial=batch_idx)
        count.done = done = batch_idx + 1
        if (monotonic() >= self._due and done % self._every == 0) or (
            done == count.total and self._worth_drawing(count)
        ):
            self._redraw(self.get_metrics(trainer, pl_module))

    @hookimpl(trylast=True)
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the finished epoch, with the metrics that the LightningModule logged at its end."""
        count = self._train
        if count is not None and self.is_enabled and (not self._terminal or self._worth_drawing(count)):
            self._redraw(self.get_metrics(trainer, pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the final state, which stays visible."""
        if self._train is not None and self.is_enabled and self._terminal:
            self._redraw(self.get_metrics(trainer, pl_module))
        self._stop()

    # -- evaluation -----------------------------------------------------------------------------------

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the bar of the sanity check."""
        self._start("sanity")

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar of the sanity check."""
        self._end_inner_evaluation()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the validation bar."""
        if not trainer.sanity_checking:
            self._start("val")

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin a bar with each loader."""
        if self.has_dataloader_changed(dataloader_idx):
            stage = "sanity" if trainer.sanity_checking else "val"
            text = self.sanity_check_description if trainer.sanity_checking else self.validation_description
            text = self._loader_description(text, dataloader_idx, len(trainer.num_val_batches))
            self._begin_loader(Count(stage, text, self.total_val_batches_current_dataloader))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count, and draw if a redraw is due."""
        self._count_evaluated(batch_idx + 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar if this is within a fit; otherwise leave it visible."""
        if trainer.state.fn == "fit":
            self._end_inner_evaluation()
        else:
            self._end_evaluation()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the test bar."""
        self._start("test")

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin a bar with each loader."""
        if self.has_dataloader_changed(dataloader_idx):
            text = self._loader_description(self.test_description, dataloader_idx, len(trainer.num_test_batches))
            self._begin_loader(Count("test", text, self.total_test_batches_current_dataloader))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count, and draw if a redraw is due."""
        self._count_evaluated(batch_idx + 1)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the finished bar, which stays visible."""
        self._end_evaluation()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the prediction bar."""
        self._start("predict")

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin a bar with each loader."""
        if self.has_dataloader_changed(dataloader_idx):
            text = self._loader_description(self.predict_description, dataloader_idx, len(trainer.num_predict_batches))
            self._begin_loader(Count("predict", text, self.total_predict_batches_current_dataloader))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count, and draw if a redraw is due."""
        self._count_evaluated(batch_idx + 1)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the finished bar, which stays visible."""
        self._end_evaluation()

    # -- the end --------------------------------------------------------------------------------------

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw the batch at which it happened and restore the terminal; read no metrics, the device may be broken."""
        try:
            self.refresh(hard=True)
        finally:
            self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the terminal, whatever happened."""
        self._stop()

    # -- shared by all stages -------------------------------------------------------------------------

    def _start(self, stage: Stage) -> None:
        terminal = self._open(stage)
        if self.is_enabled:
            self._terminal = terminal
            if self._due == math.inf:
                self._due = 0.0 if terminal else monotonic() + LINE_EVERY

    def _begin_epoch(self, trainer: Trainer, initial: int) -> Count:
        self._train = Count("train", self._epoch_description(trainer), self.total_train_batches, initial)
        self._begin_count(self._train)
        return self._train

    def _begin_count(self, count: Count) -> None:
        if self._due == math.inf:
            self._start(count.stage)
        self._begin(count)
        self.refresh()

    def _begin_loader(self, count: Count) -> None:
        if self.is_enabled:
            if self._evaluation is not None and not self._terminal and self.trainer.state.fn != "fit":
                self._redraw(None)
            self._evaluation = count
            self._begin_count(count)

    def _count_evaluated(self, done: int) -> None:
        if self._evaluation is not None:
            self._evaluation.done = done
            if monotonic() >= self._due and done % self._every == 0:
                self._redraw(None)

    def _end_inner_evaluation(self) -> None:
        if self._evaluation is not None:
            self._hide(self._evaluation.stage)
        self._evaluation = None
        self.reset_dataloader_idx_tracker()

    def _end_evaluation(self) -> None:
        if self._evaluation is not None and self.is_enabled:
            self._redraw(None)
        self._stop()

    def _worth_drawing(self, count: Count) -> bool:
        """Whether to draw the end of an epoch: no, if epochs are shorter than the time between redraws."""
        return self._terminal and (self._leave or monotonic() >= min(self._due, count.since + self._gap))

    def _redraw(self, metrics: Mapping[str, Any] | None) -> None:
        begin = monotonic()
        if self._terminal:
            self._draw(metrics)
            end = monotonic()
            self._gap = max(self._interval, IDLE_PER_DRAW * (end - begin))
            self._due = end + self._gap
        else:
            self._write_line(" ".join([str(self._evaluation or self._train), *metric_texts(metrics or {})]))
            self._due = begin + LINE_EVERY

    def _stop(self) -> None:
        self._close()
        self._terminal = False
        self._due = math.inf
        self._train = self._evaluation = None
        self.reset_dataloader_idx_tracker()

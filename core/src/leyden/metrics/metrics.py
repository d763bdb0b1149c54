"""The metrics of a run: takes the calls of ``self.log``, and moves values on at the end of a step or an epoch."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden.metrics.options import LogOptions
from leyden.metrics.records import Moment, Results, Shown
from leyden.utilities import rank_zero_warn
from leyden.utilities.batch import extract_batch_size

if TYPE_CHECKING:
    from leyden.trainer.run import Run


class Metrics:
    """Knows which hook of which loop logs, and keeps what has been logged for whoever asks.

    Values are kept when somebody asks for them, and when they become final. The values of an epoch are final when it
    ends, those of a step when the epoch ends or another loop begins.

    Attributes:
        hook: The hook or step that runs now; it decides the defaults of ``self.log`` and whether it may be called.
        results: The records of the loop that runs now; empty ones where none runs.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._trainer = run, run.trainer
        self.results = Results(run.trainer)
        self.hook: str | None = None
        self._batch: Any = None
        self._batch_size: int | None = None
        self._counts = True
        self._kept = Shown({}, {}, {})

    @contextmanager
    def scope(self, hook: str | None) -> Generator[None, None, None]:
        """A block in which ``self.log`` is called from ``hook``; None where it may not be called."""
        outer, self.hook = self.hook, hook
        try:
            yield
        finally:
            self.hook = outer

    def forget(self) -> None:
        """Forget every metric; called after a sanity check, whose metrics nobody is to see."""
        self._kept = Shown({}, {}, {})

    # -- from the user's hooks ------------------------------------------------------------------------

    def log(self, name: str, value: Any, asked: LogOptions, batch_size: int | None) -> None:
        """Take one ``self.log`` call."""
        if self._trainer.barebones:
            if self._run.not_told(["barebones"]):
                rank_zero_warn(f"self.log({name!r}, …) does nothing under Trainer(barebones=True). (Said once.)")
            return
        results, hook = self.results, self.hook or ""
        record = results.records.get((hook, name, results.dataloader_idx))
        if record is None or record.asked != asked:
            if isinstance(value, Mapping):
                for key, member in value.items():
                    self.log(f"{name}/{key}", member, asked, batch_size)
                return
            record = results.declare(hook, name, value, asked)
        record.update(value, self.batch_size if batch_size is None else batch_size, self._counts)

    def batch_size(self) -> int:
        """The first dimension of the batch's tensors, found once per batch; 1 between batches."""
        if self._batch_size is None:
            self._batch_size = 1 if self._batch is None else extract_batch_size(self._batch)
        return self._batch_size

    # -- from the loops -------------------------------------------------------------------------------

    def enter(self, results: Results) -> Results:
        """Log into another loop's records from now on; returns the outer loop's, to be given to :meth:`leave`."""
        outer = self.results
        self._keep()
        if outer.moment is Moment.STEP:
            outer.moment = Moment.STEP_KEPT
        self.results = results
        results.reset()  # of what a pass that failed has left
        return outer

    def leave(self, outer: Results) -> None:
        """Forget the inner loop's records and go back to the outer loop's."""
        self.results.reset()
        self.results = outer

    def start_batch(self, batch: Any, dataloader_idx: int | None = None, counts: bool = True) -> None:
        """Begin a batch; its size is found when it is first needed.

        Args:
            batch: The batch.
            dataloader_idx: The number of its loader; None where there is only one.
            counts: Whether its values are a part of the epoch's values.
        """
        self._batch, self._batch_size, self._counts = batch, None, counts
        self.results.dataloader_idx = dataloader_idx
        self.results.moment = Moment.STEP

    def end_train_batch(self) -> None:
        """Send the step's metrics to the loggers, every ``log_every_n_steps`` optimizer steps."""
        trainer, run = self._trainer, self._run
        self._batch = self._batch_size = None
        if not run.progress.stepped or not trainer.loggers:
            return
        every = trainer.log_every_n_steps
        due = every and (run.progress.batches_that_stepped + 1) % every == 0
        if due or run.should_stop or trainer.fast_dev_run:
            self.send(self.results.metrics().loggers)

    def end_evaluation_batch(self, step: int) -> None:
        """Send what an evaluation step logged with ``on_step=True``, under the batch's number."""
        self._batch = self._batch_size = None
        if self._trainer.loggers and not self._trainer.sanity_checking:
            self.send(self.results.metrics().loggers, step)

    def end_epoch(self) -> dict[str, Any]:
        """Make the epoch's values of the running dataloader final; returns those that loggers are to see."""
        if self.results.moment is Moment.STEP:
            self._keep()
        self._run.strategy.agree_on_results(self.results)
        self.results.moment = Moment.EPOCH
        return self._keep()

    def send(self, metrics: Mapping[str, Any], step: int | None = None, offset: int = 0) -> None:
        """Hand metrics to every logger as numbers. A logged "step" takes the place of the step number.

        Args:
            metrics: The values by name.
            step: The number under which they are logged; by default the number of batches that led to a step.
            offset: What is added to the default.
        """
        loggers = self._trainer.loggers
        if not loggers or not metrics:
            return
        self._kept.loggers.update(metrics)
        numbers = _numbers(metrics)
        if step is None and "step" in numbers:
            step = int(numbers.pop("step"))
        elif step is None:
            numbers.setdefault("epoch", self._run.progress.epoch)
            step = self._run.progress.batches_that_stepped + offset
        for logger in loggers:
            logger.log_metrics(metrics=dict(numbers), step=step)

    def _keep(self) -> dict[str, Any]:
        """Keep the values that the running loop shows now; returns those that loggers are to see."""
        shown = self.results.metrics()
        for kept, new in zip(self._kept, shown, strict=True):
            kept.update(new)
        return shown.loggers

    def to_host(self) -> None:
        """Move what is kept to the host, since the run is over and its device may be released."""
        self._keep()
        self.results = Results(self._trainer)
        for kept in self._kept:
            kept.update({name: v.cpu() if isinstance(v, Tensor) else v for name, v in kept.items()})

    # -- for whoever asks -----------------------------------------------------------------------------

    @property
    def callback_metrics(self) -> dict[str, Any]:
        """Every metric under its plain and its suffixed name, as tensors."""
        self._keep()
        return self._kept.callbacks

    @property
    def logged_metrics(self) -> dict[str, Any]:
        """Metrics logged with ``logger=True``, as tensors."""
        self._keep()
        return self._kept.loggers

    @property
    def progress_bar_metrics(self) -> dict[str, float]:
        """Metrics logged with ``prog_bar=True``, as numbers; reading it waits for the device."""
        self._keep()
        return _numbers(self._kept.bars)

    def take_over(self, callback: dict[str, Any], logged: dict[str, Any], bars: dict[str, Any]) -> None:
        """Take the metrics of a run in another process."""
        self._kept = Shown(callback, logged, bars)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}

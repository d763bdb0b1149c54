"""When a fit validates: every so many batches, parts of an epoch, epochs, or so much time."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

from leyden.data.combined import INFINITE
from leyden.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from leyden.loops.fit import FitLoop
    from leyden.trainer.run import Run


class ValidationSchedule:
    """``val_check_interval`` and ``check_val_every_n_epoch``, made into a question per batch.

    Attributes:
        enabled: Whether this fit validates at all.
        every: Training batches between validations; infinite for the end of the epoch only.
        validated_at: When the last validation ended, in seconds of ``time.monotonic``.
    """

    def __init__(self, run: Run, loop: FitLoop) -> None:
        self._run, self._loop, self.trainer = run, loop, run.trainer
        self.enabled = False
        self.every: int | float = INFINITE
        self.validated_at = 0.0

    def plan(self, max_batches: int | float) -> None:
        """Work out the interval for an epoch of ``max_batches``."""
        trainer, interval = self.trainer, self.trainer.val_check_interval
        self.enabled = self._loop.validates
        self.validated_at = time.monotonic()
        self.every = INFINITE
        if isinstance(interval, int):
            self.every = interval
            if interval > max_batches > 0 and trainer.check_val_every_n_epoch is not None and self.enabled:
                raise ValueError(
                    f"val_check_interval={interval} is more than the {max_batches} training batches of an epoch; write "
                    "a smaller one, or check_val_every_n_epoch=None to count batches across epochs."
                )
        elif isinstance(interval, float) and max_batches != INFINITE:
            self.every = max(1, int(max_batches * interval))
        elif isinstance(interval, float) and interval != 1.0 and self.enabled:
            raise MisconfigurationException(
                f"val_check_interval={interval} is a fraction, but the training loader has no length; write a "
                "number of batches, a time, or 1.0 for the end of the epoch."
            )

    def is_due_in_epoch(self) -> bool:
        """Whether the running epoch is one with validation."""
        every = self.trainer.check_val_every_n_epoch
        return self.enabled and (every is None or (self._run.progress.epoch + 1) % every == 0)

    def is_due(self) -> bool:
        """Whether to validate now, after a batch."""
        trainer, progress = self.trainer, self._run.progress
        if not self.is_due_in_epoch():
            return False
        if self._run.should_stop and self._loop.may_stop_early:
            return True
        if isinstance(trainer.val_check_interval, timedelta):
            return time.monotonic() - self.validated_at >= trainer.val_check_interval.total_seconds()
        whole_epoch = isinstance(trainer.val_check_interval, float) and trainer.val_check_interval == 1.0
        if whole_epoch or self.every == INFINITE:  # the epoch may end before its limit, where a loader has no length
            return progress.is_last_batch
        batches = progress.total_batches if trainer.check_val_every_n_epoch is None else progress.batch_idx
        return batches % self.every == 0

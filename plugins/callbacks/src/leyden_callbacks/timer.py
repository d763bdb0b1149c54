"""Timer: measures how long training, validation and testing take, and ends a fit when its time is up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from leyden.callbacks import Callback
from leyden.utilities import MisconfigurationException, parse_duration, rank_zero_info

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

STAGES = ("train", "sanity_check", "validate", "test", "predict")


class Timer(Callback):
    """Stops training after a given time, and knows how long each stage took.

    The time that a run spent before it was interrupted counts when it is resumed from a checkpoint.
    ``Trainer(max_time=...)`` makes one.

    Args:
        duration: How long training may take: "DD:HH:MM:SS" (days, hours, minutes, seconds), a ``timedelta``, or a
            dict of its arguments, such as ``{"hours": 2}``. None only measures.
        interval: Whether training may stop after any batch, "step", or only after a whole epoch, "epoch".
        verbose: Say that the time is up.

    Raises:
        MisconfigurationException: ``duration`` or ``interval`` is not understood.
    """

    role: ClassVar[str | None] = "timer"

    def __init__(
        self,
        duration: str | timedelta | Mapping[str, float] | None = None,
        interval: Literal["step", "epoch"] = "step",
        verbose: bool = True,
    ) -> None:
        if interval not in ("step", "epoch"):
            raise MisconfigurationException(f'Timer(interval={interval!r}) must be "step" or "epoch".')
        limit = parse_duration(duration, "Timer: duration")
        self._duration = None if limit is None else limit.total_seconds()
        self._interval = interval
        self._verbose = verbose
        self._start: dict[str, float] = {}
        self._end: dict[str, float] = {}
        self._offset = 0.0  # seconds of training before the run that is resumed

    def start_time(self, stage: str = "train") -> float | None:
        """When a stage began, in seconds of :func:`time.monotonic`; None if it did not.

        Args:
            stage: "train", "sanity_check", "validate", "test" or "predict".
        """
        return self._start.get(_known(stage))

    def end_time(self, stage: str = "train") -> float | None:
        """When a stage ended, in seconds of :func:`time.monotonic`; None if it did not."""
        return self._end.get(_known(stage))

    def time_elapsed(self, stage: str = "train") -> float:
        """Seconds that a stage took, until now if it has not ended."""
        start, offset = self.start_time(stage), self._offset if stage == "train" else 0.0
        if start is None:
            return offset
        return self._end.get(stage, time.monotonic()) - start + offset

    def time_remaining(self, stage: str = "train") -> float | None:
        """Seconds that are left of ``duration``; None where there is none."""
        return None if self._duration is None else self._duration - self.time_elapsed(stage)

    def _begin(self, stage: str) -> None:
        self._start[stage] = time.monotonic()
        self._end.pop(stage, None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training begins."""
        self._begin("train")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training ends."""
        self._end["train"] = time.monotonic()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation begins, in a fit or alone; the sanity check is one too, and is timed apart."""
        self._begin("sanity_check" if trainer.sanity_checking else "validate")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation ends."""
        self._end["sanity_check" if trainer.sanity_checking else "validate"] = time.monotonic()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Testing begins."""
        self._begin("test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Testing ends."""
        self._end["test"] = time.monotonic()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prediction begins."""
        self._begin("predict")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prediction ends."""
        self._end["predict"] = time.monotonic()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resumed run may have used up its time already."""
        self._check(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here if the time is up and ``interval`` is "step"."""
        if self._interval == "step":
            self._check(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop here if the time is up and ``interval`` is "epoch"."""
        if self._interval == "epoch":
            self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        if self._duration is None:
            return
        stop = self.time_elapsed() >= self._duration
        if trainer.world_size > 1:  # clocks differ between ranks, and all must stop together
            stop = trainer.strategy.broadcast(stop)
        if stop:
            trainer.should_stop = True
            if self._verbose:
                elapsed = timedelta(seconds=int(self.time_elapsed()))
                rank_zero_info(f"The time limit is reached: training took {elapsed}. Training stops.")

    def state_dict(self) -> dict[str, Any]:
        """The seconds that each stage took."""
        return {"time_elapsed": {stage: self.time_elapsed(stage) for stage in STAGES}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count the training time of the run that is resumed."""
        self._offset = state_dict.get("time_elapsed", {}).get("train", 0.0)


def _known(stage: str) -> str:
    if stage not in STAGES:
        raise ValueError(f"There is no stage {stage!r}; Timer knows {', '.join(STAGES)}.")
    return str(getattr(stage, "value", stage))

"""Timer: measures how long training, validation and testing take, and ends a fit when its time is up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from leyden.utilities import MisconfigurationException, parse_duration, rank_zero_info
from leyden_callbacks.fit_state import FitState

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

STAGES = ("train", "sanity_check", "validate", "test", "predict")


class Timer(FitState):
    """Stops training after a given time, and measures how long each stage takes.

    In a resumed run the training time before the interruption counts too. ``Trainer(max_time=...)`` makes a Timer.

    Args:
        duration: How long training may take: "DD:HH:MM:SS" (days, hours, minutes, seconds), a ``timedelta``, or a
            dict of its arguments, such as ``{"hours": 2}``. With None the Timer only measures.
        interval: "step" lets training stop after any batch, "epoch" only after a whole epoch.
        verbose: Whether to log that the time is up.

    Raises:
        MisconfigurationException: ``duration`` or ``interval`` has another form.
    """

    role: ClassVar[str | None] = "timer"
    OF_ONE_FIT = ("_start", "_end", "_offset")

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
        """Return when a stage began, in seconds of :func:`time.monotonic`; None if it did not begin.

        Args:
            stage: "train", "sanity_check", "validate", "test" or "predict".

        Raises:
            ValueError: There is no such stage.
        """
        return self._start.get(_known(stage))

    def end_time(self, stage: str = "train") -> float | None:
        """Return when a stage ended, in seconds of :func:`time.monotonic`; None if it did not end."""
        return self._end.get(_known(stage))

    def time_elapsed(self, stage: str = "train") -> float:
        """Return the seconds that a stage took; if it has not ended, the seconds until now."""
        start, offset = self.start_time(stage), self._offset if stage == "train" else 0.0
        if start is None:
            return offset
        return self._end.get(stage, time.monotonic()) - start + offset

    def time_remaining(self, stage: str = "train") -> float | None:
        """Return the seconds that are left of ``duration``; None if there is no ``duration``."""
        return None if self._duration is None else self._duration - self.time_elapsed(stage)

    def _begin(self, stage: str) -> None:
        self._start[stage] = time.monotonic()
        self._end.pop(stage, None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when training begins."""
        self._begin("train")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when training ends."""
        self._end["train"] = time.monotonic()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when validation begins, in a fit or alone; the sanity check is timed separately."""
        self._begin("sanity_check" if trainer.sanity_checking else "validate")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when validation or the sanity check ends."""
        self._end["sanity_check" if trainer.sanity_checking else "validate"] = time.monotonic()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when testing begins."""
        self._begin("test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when testing ends."""
        self._end["test"] = time.monotonic()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when prediction begins."""
        self._begin("predict")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when prediction ends."""
        self._end["predict"] = time.monotonic()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once if a resumed run has already used up its time."""
        self._check(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if the time is up and ``interval`` is "step"."""
        if self._interval == "step":
            self._check(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if the time is up and ``interval`` is "epoch"."""
        if self._interval == "epoch":
            self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        if self._duration is None:
            return
        stop = self.time_elapsed() >= self._duration
        if trainer.world_size > 1:  # clocks differ between ranks, but all must stop together
            stop = trainer.strategy.broadcast(stop)
        if stop:
            trainer.should_stop = True
            if self._verbose:
                elapsed = timedelta(seconds=int(self.time_elapsed()))
                rank_zero_info(f"The time limit is reached: training took {elapsed}. Training stops.")

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds that each stage took."""
        return {"time_elapsed": {stage: self.time_elapsed(stage) for stage in STAGES}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Add the training time of the run that is resumed."""
        self._offset = state_dict.get("time_elapsed", {}).get("train", 0.0)


def _known(stage: str) -> str:
    if stage not in STAGES:
        raise ValueError(f"There is no stage {stage!r}; Timer knows {', '.join(STAGES)}.")
    return str(getattr(stage, "value", stage))

"""EarlyStopping: ends a fit when a metric no longer improves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from leyden import hookimpl
from leyden.utilities import MisconfigurationException, missing_metric, rank_zero_warn
from leyden_callbacks.fit_state import FitState

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

log = logging.getLogger("leyden.callbacks.early_stopping")


class EarlyStoppingReason(Enum):
    """Why training was stopped."""

    NOT_STOPPED = 0
    STOPPING_THRESHOLD = 1
    DIVERGENCE_THRESHOLD = 2
    PATIENCE_EXHAUSTED = 3
    NON_FINITE_METRIC = 4


class EarlyStopping(FitState):
    """Stops training when a logged metric has not improved for a number of checks.

    By default it checks at the end of each training epoch if validation runs once in every epoch, and otherwise after
    each validation. ``patience`` counts checks, not epochs. In a ``fast_dev_run`` it does nothing. In a fit that is
    resumed it goes on with its own arguments, such as another ``patience``.

    Args:
        monitor: The name of the logged metric.
        min_delta: The metric must improve by more than this to count as improved; in the metric's unit.
        patience: Training stops after this many checks in a row without improvement.
        verbose: Whether to log when the metric improved and why training stops.
        mode: "min" if smaller values are better, "max" if larger ones are.
        strict: Whether to raise an error if ``monitor`` was not logged; False skips that check.
        check_finite: Whether to stop when the metric becomes NaN or infinite.
        stopping_threshold: Training stops at once when the metric is better than this.
        divergence_threshold: Training stops at once when the metric is worse than this.
        check_on_train_epoch_end: True checks when a training epoch ends, False after validation; None is the default
            described above.
        log_rank_zero_only: Whether only rank 0 logs messages; only with ``verbose``.

    Attributes:
        best_score: The best value so far, a scalar tensor.
        wait_count: The number of checks since the best value.
        stopped_epoch: The epoch in which training was stopped; 0 if it was not.
        stopping_reason: Why training was stopped, an :class:`EarlyStoppingReason`.
        stopping_reason_message: The reason in words; None if training was not stopped.

    Raises:
        MisconfigurationException: ``mode`` is neither "min" nor "max".
        RuntimeError: During a fit, ``monitor`` was not logged and ``strict`` is True.
    """

    role: ClassVar[str | None] = "early_stopping"
    OF_ONE_FIT = (
        "best_score",
        "wait_count",
        "stopped_epoch",
        "stopping_reason",
        "stopping_reason_message",
        "_check_on_train_epoch_end",
    )

    def __init__(
        self,
        monitor: str,
        min_delta: float = 0.0,
        patience: int = 3,
        verbose: bool = False,
        mode: Literal["min", "max"] = "min",
        strict: bool = True,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_on_train_epoch_end: bool | None = None,
        log_rank_zero_only: bool = False,
    ) -> None:
        if mode not in ("min", "max"):
            raise MisconfigurationException(f'EarlyStopping(mode={mode!r}) must be "min" or "max".')
        self.monitor = monitor
        self.min_delta = min_delta
        self.patience = patience
        self.verbose = verbose
        self.mode = mode
        self.strict = strict
        self.check_finite = check_finite
        self.stopping_threshold = stopping_threshold
        self.divergence_threshold = divergence_threshold
        self.log_rank_zero_only = log_rank_zero_only
        self._check_on_train_epoch_end = check_on_train_epoch_end
        self.best_score = torch.tensor(torch.inf if mode == "min" else -torch.inf)
        self.wait_count = 0
        self.stopped_epoch = 0
        self.stopping_reason = EarlyStoppingReason.NOT_STOPPED
        self.stopping_reason_message: str | None = None

    @property
    def monitor_op(self) -> Callable[[Any, Any], Any]:
        """The function that tells whether its first argument is better than its second, by ``mode``."""
        return torch.lt if self.mode == "min" else torch.gt

    @property
    def state_key(self) -> str:
        """The class's name with ``monitor`` and ``mode``, so that two instances keep separate states."""
        return self._generate_state_key(monitor=self.monitor, mode=self.mode)

    @property
    def distinction(self) -> str:  # type: ignore[override]
        """The other arguments by which it decides, so that two with one ``state_key`` keep separate states."""
        names = ("patience", "min_delta", "check_finite", "stopping_threshold", "divergence_threshold")
        return repr([getattr(self, name) for name in names])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose when to check, if ``check_on_train_epoch_end`` is None."""
        if self._check_on_train_epoch_end is None:
            self._check_on_train_epoch_end = trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1

    @hookimpl(trylast=True)
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the metric, if checks are made here. Runs last, since other callbacks may still log in this hook."""
        if self._check_on_train_epoch_end and _trains(trainer):
            self._run_early_stopping_check(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the metric, if checks are made after validation."""
        if not self._check_on_train_epoch_end and _trains(trainer):
            self._run_early_stopping_check(trainer)

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        """Check the metric and set ``trainer.should_stop``; a subclass may call it from another hook."""
        if trainer.fast_dev_run:
            return
        metrics = trainer.callback_metrics
        current = trainer.strategy.agree_on_value(self.monitor, metrics.get(self.monitor))
        if current is None:
            return self._tell_missing(metrics)
        stop, message = self._judge(current.detach().squeeze())
        stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        trainer.should_stop = trainer.should_stop or stop
        if stop:
            self.stopped_epoch = trainer.current_epoch
            self.stopping_reason_message = message
        if message and self.verbose:
            self._say(trainer, message)

    def _tell_missing(self, metrics: Mapping[str, Tensor]) -> None:
        message = missing_metric(type(self).__name__, self.monitor, metrics)
        if self.strict:
            raise RuntimeError(message)
        if self.verbose:
            rank_zero_warn(message, RuntimeWarning)

    def _judge(self, current: Tensor) -> tuple[bool, str | None]:
        """Return whether to stop, and a message or None. Updates the best score, the wait count and the reason."""
        better = self.monitor_op
        sign = "<" if self.mode == "min" else ">"
        if self.check_finite and not torch.isfinite(current):
            self.stopping_reason = EarlyStoppingReason.NON_FINITE_METRIC
            return True, f"{self.monitor} is {current}; its best was {self.best_score:.3f}. Training stops."
        if self.stopping_threshold is not None and better(current, self.stopping_threshold):
            self.stopping_reason = EarlyStoppingReason.STOPPING_THRESHOLD
            return True, f"{self.monitor} reached {current} {sign} {self.stopping_threshold}. Training stops."
        if self.divergence_threshold is not None and better(-current, -self.divergence_threshold):
            self.stopping_reason = EarlyStoppingReason.DIVERGENCE_THRESHOLD
            return True, f"{self.monitor} is {current}, past {self.divergence_threshold}: it diverges. Training stops."
        margin = -self.min_delta if self.mode == "min" else self.min_delta
        previous = self.best_score.to(current.device)
        if better(current - margin, previous):
            self.best_score, self.wait_count = current.clone(), 0
            gain = f" by {abs(previous - current):.3f}" if torch.isfinite(previous) else ""
            return False, f"{self.monitor} improved{gain} to {current:.3f}."
        self.wait_count += 1
        if self.wait_count < self.patience:
            return False, None
        self.stopping_reason = EarlyStoppingReason.PATIENCE_EXHAUSTED
        return True, (
            f"{self.monitor} did not improve in the last {self.wait_count} checks; its best was {previous:.3f}. "
            "Training stops."
        )

    def _say(self, trainer: Trainer, message: str) -> None:
        if trainer.world_size == 1:
            log.info(message)
        elif trainer.is_global_zero or not self.log_rank_zero_only:
            log.info("[rank: %d] %s", trainer.global_rank, message)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, the wait count, ``patience``, and how training was stopped."""
        return {
            "wait_count": self.wait_count,
            "stopped_epoch": self.stopped_epoch,
            "best_score": self.best_score,
            "patience": self.patience,
            "stopping_reason": self.stopping_reason.value,
            "stopping_reason_message": self.stopping_reason_message,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, but for ``patience``, which is as it was given."""
        self.wait_count = state_dict["wait_count"]
        self.stopped_epoch = state_dict["stopped_epoch"]
        self.best_score = state_dict["best_score"]
        self.stopping_reason = EarlyStoppingReason(state_dict.get("stopping_reason", 0))
        self.stopping_reason_message = state_dict.get("stopping_reason_message")


def _trains(trainer: Trainer) -> bool:
    return trainer.state.fn == "fit" and not trainer.sanity_checking

"""Where a Trainer stands: what it was asked to do, which stage runs, and how it ended."""

from dataclasses import dataclass
from enum import Enum


class _StrEnum(str, Enum):
    """Members compare equal to their values and print as them."""

    __str__ = str.__str__
    __hash__ = str.__hash__


class TrainerFn(_StrEnum):
    """What the user called."""

    FITTING = "fit"
    VALIDATING = "validate"
    TESTING = "test"
    PREDICTING = "predict"


class RunningStage(_StrEnum):
    """What runs now; a fit trains, validates and makes a sanity check."""

    TRAINING = "train"
    SANITY_CHECKING = "sanity_check"
    VALIDATING = "validate"
    TESTING = "test"
    PREDICTING = "predict"

    @property
    def evaluating(self) -> bool:
        """Whether this stage is a validation, a sanity check or a test."""
        return self in (self.VALIDATING, self.TESTING, self.SANITY_CHECKING)

    @property
    def dataloader_prefix(self) -> str:
        """The stage's part of names such as ``val_dataloader`` and ``limit_val_batches``."""
        return {"validate": "val", "sanity_check": "val"}.get(self.value, self.value)


class TrainerStatus(_StrEnum):
    """How far a run has come."""

    INITIALIZING = "initializing"
    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"

    @property
    def stopped(self) -> bool:
        """Whether the run is over, well or not."""
        return self in (self.FINISHED, self.INTERRUPTED)


@dataclass
class TrainerState:
    """The state of a Trainer; ``fn`` and ``stage`` are None before the first run."""

    status: TrainerStatus = TrainerStatus.INITIALIZING
    fn: TrainerFn | None = None
    stage: RunningStage | None = None

    @property
    def finished(self) -> bool:
        """Whether the last run ended well."""
        return self.status == TrainerStatus.FINISHED

    @property
    def interrupted(self) -> bool:
        """Whether the last run ended with an exception or Ctrl-C."""
        return self.status == TrainerStatus.INTERRUPTED

    @property
    def stopped(self) -> bool:
        """Whether the last run is over."""
        return self.status.stopped

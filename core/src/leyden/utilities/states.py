"""The state of a Trainer: the method that the user called, the stage that runs, and how the run ended."""

from dataclasses import dataclass
from enum import Enum

from leyden.utilities.objects import forward, is_at


class _StrEnum(str, Enum):
    """An enum whose members compare equal to their values and print as them."""

    __str__ = str.__str__
    __hash__ = str.__hash__


class TrainerFn(_StrEnum):
    """The Trainer's method that the user called."""

    FITTING = "fit"
    VALIDATING = "validate"
    TESTING = "test"
    PREDICTING = "predict"


class RunningStage(_StrEnum):
    """The stage that runs now; a fit has training, validation and sanity check."""

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
        """The stage's word in names such as ``val_dataloader`` and ``limit_val_batches``."""
        return {"validate": "val", "sanity_check": "val"}.get(self.value, self.value)


class TrainerStatus(_StrEnum):
    """The status of a run."""

    INITIALIZING = "initializing"
    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"

    @property
    def stopped(self) -> bool:
        """Whether the run is over, successful or not."""
        return self in (self.FINISHED, self.INTERRUPTED)


@dataclass
class TrainerState:
    """The state of a Trainer; ``fn`` and ``stage`` are None before the first run."""

    status: TrainerStatus = TrainerStatus.INITIALIZING
    fn: TrainerFn | None = None
    stage: RunningStage | None = None

    finished = is_at("status", TrainerStatus.FINISHED, "Whether the last run ended without an error.")
    interrupted = is_at("status", TrainerStatus.INTERRUPTED, "Whether the last run ended with an exception or Ctrl-C.")
    stopped = forward("status.stopped", "Whether the last run is over.")

"""Where a fit is: its counters, the phase of its loop, and the random states; what an exact resume needs of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from leyden.data.iteration import Iteration

if TYPE_CHECKING:
    from leyden.loops.fit import FitLoop


class Phase(str, Enum):
    """Where a fit is in its loop; a run that is resumed from a checkpoint goes on from the phase it was taken in."""

    EPOCH_START = "epoch_start"
    BATCH = "batch"
    BATCH_END = "batch_end"
    VALIDATION_END = "validation_end"
    BATCH_DONE = "batch_done"
    EPOCH_END = "epoch_end"


class _Moves(dict[Phase, Phase]):
    """The phases that may follow one; any other is an error."""

    def __init__(self, phase: Phase, *following: Phase) -> None:
        super().__init__({each: each for each in following})
        self.phase = phase

    def __missing__(self, phase: Phase) -> Phase:
        raise RuntimeError(f"The fit loop can't go from {self.phase.value!r} to {phase.value!r}.")


# ``progress.phase = MOVES[progress.phase][Phase.BATCH]`` goes on to a phase, and checks the move without a call.
# An epoch that has begun, and has no batch yet, is in BATCH_DONE.
MOVES = {
    Phase.EPOCH_START: _Moves(Phase.EPOCH_START, Phase.BATCH_DONE),
    Phase.BATCH_DONE: _Moves(Phase.BATCH_DONE, Phase.BATCH, Phase.EPOCH_END),
    Phase.BATCH: _Moves(Phase.BATCH, Phase.BATCH_END, Phase.EPOCH_END),
    Phase.BATCH_END: _Moves(Phase.BATCH_END, Phase.VALIDATION_END, Phase.BATCH_DONE),
    Phase.VALIDATION_END: _Moves(Phase.VALIDATION_END, Phase.BATCH_DONE),
    Phase.EPOCH_END: _Moves(Phase.EPOCH_END, Phase.EPOCH_START),
}


@dataclass
class Progress:
    """How far a fit has come.

    Attributes:
        epoch: Epochs finished; the index of the running one.
        batch_idx: Batches trained on in the running epoch.
        total_batches: Batches trained on in all epochs.
        optimizer_steps: Optimizer steps taken; ``trainer.global_step``.
        batches_that_stepped: Batches that led to a step, whatever the number of optimizers; the loggers' step.
        scheduler_steps: Steps of learning-rate schedulers.
        phase: Where in the loop the run is; :data:`MOVES` are those that it may go on to.
        is_last_batch: Whether the running batch is the last of its epoch.
        stepped: Whether the running batch led to a step: it did not only add to the gradients, and the precision did
            not skip the step. Always in manual optimisation.
        plateaus: By the index of a scheduler, True if it has not had the values of the last validation yet.
    """

    epoch: int = 0
    batch_idx: int = 0
    total_batches: int = 0
    optimizer_steps: int = 0
    batches_that_stepped: int = 0
    scheduler_steps: int = 0
    phase: Phase = Phase.EPOCH_START
    is_last_batch: bool = False
    stepped: bool = True
    plateaus: dict[int, bool] = field(default_factory=dict)

    def of_next_fit(self) -> Progress:
        """The counters with which another fit begins: at the start of an epoch, whatever ended this one."""
        return replace(self, batch_idx=0, phase=Phase.EPOCH_START, is_last_batch=False, plateaus={})

    def is_accumulating(self, every: int) -> bool:
        """Whether the next batch adds to the gradients of those that are done.

        Args:
            every: Batches per optimizer step.
        """
        within_batch = self.phase is Phase.BATCH
        if self.phase in (Phase.EPOCH_START, Phase.EPOCH_END) or (self.is_last_batch and not within_batch):
            return False
        return (self.batch_idx - within_batch) % every != 0

    def state_dict(self) -> dict[str, Any]:
        """The counters and the phase, as plain data."""
        return {**asdict(self), "phase": self.phase.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned; counters that are missing are as at the start of a fit.

        A checkpoint taken within a batch holds the weights from before it, so that the batch is trained on again.
        """
        vars(self).update(vars(Progress(**{**state, "phase": Phase(state.get("phase", Phase.EPOCH_START))})))
        if self.phase is Phase.BATCH:
            self.batch_idx -= 1
            self.total_batches -= 1
            self.phase, self.is_last_batch = Phase.BATCH_DONE, False


class RandomStates:
    """The random states that a checkpoint holds, and how a resumed fit is given them.

    Attributes:
        validation: The states before the validation that runs. A run that is resumed from within it makes it again.
        saved: What :meth:`state_dict` returned for the checkpoint, until the resumed fit has taken up its epoch. Else,
            and where the checkpoint has no random states, {}.
    """

    def __init__(self, loop: FitLoop) -> None:
        self._loop = loop
        self.validation: dict[str, Any] | None = None
        self.saved: Mapping[str, Any] = {}

    def now(self) -> dict[str, Any]:
        """The random states of this moment, those of the loaders included."""
        return self._iteration.random_states(*self._owners())

    def restore(self) -> None:
        """Put back the random states of the checkpoint, if it has them."""
        if self.saved:
            self._iteration.restore_random_states(self.saved, *self._owners())

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint that is taken now must hold."""
        if self.saved:  # a resumed fit that has not come so far
            return dict(self.saved)
        within_validation = self._loop.progress.phase is Phase.BATCH_END and self.validation
        return within_validation or self.now()

    @property
    def _iteration(self) -> type[Iteration]:
        return self._loop.loader.iteration if self._loop.loader is not None else Iteration

    def _owners(self) -> tuple[list[Any], Any, Any]:
        trainer, combined = self._loop.trainer, (self._loop.loader, self._loop.validation.loader)
        loaders = [loader for one in combined if one is not None for loader in one.flattened]
        return loaders, trainer.accelerator, trainer.strategy.root_device

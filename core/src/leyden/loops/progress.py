"""Where a fit is: its counters, the phase of its loop, and the random states; what an exact resume needs of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from leyden.utilities.rng import collect_rng_states, set_rng_states

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
    """The random states that an exact resume needs: those that a checkpoint holds, and how a resumed fit is given them.

    A resumed run draws its epoch's order and batches again. So the states of the checkpoint's moment are not enough:
    it needs those from the start of the epoch too, and those from before a batch that was read ahead.

    Attributes:
        epoch: The states at the start of the running epoch.
        validation: The states before the validation that runs. A run that is resumed from within it makes it again.
        saved: What :meth:`state_dict` returned for the checkpoint, until the resumed fit has taken up its epoch. Else,
            and where the checkpoint has no random states, {}.
    """

    def __init__(self, loop: FitLoop) -> None:
        self._loop = loop
        self.epoch: dict[str, Any] | None = None
        self.validation: dict[str, Any] | None = None
        self.saved: Mapping[str, Any] = {}

    def now(self) -> dict[str, Any]:
        """The random states of this moment, those of the user's generators in the loaders included."""
        return collect_rng_states(*self._owners())

    def restore(self, moment: str) -> None:
        """Put back the random states of a moment, if the checkpoint has them."""
        if (states := self.saved.get(moment)) is not None:
            set_rng_states(states, *self._owners())

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint that is taken now must hold, by moment."""
        loop = self._loop
        within_validation = self.validation is not None and loop.progress.phase is Phase.BATCH_END
        return {
            "epoch": self.epoch,
            "ahead": loop.fetcher.ahead_rng if loop.fetcher is not None else None,
            "now": self.validation if within_validation else self.now(),
            "restarts": loop.loader.restarts if loop.loader is not None else {},
        }

    def _owners(self) -> tuple[Any, Any, list[Any]]:
        trainer, combined = self._loop.trainer, (self._loop.loader, self._loop.validation.loader)
        loaders = [loader for one in combined if one is not None for loader in one.flattened]
        return trainer.accelerator, trainer.strategy.root_device, loaders

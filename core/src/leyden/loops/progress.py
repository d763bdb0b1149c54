"""The counters of a fit."""

from __future__ import annotations

from dataclasses import dataclass

# Where in the loop a checkpoint was taken; a resumed run goes on from there.
EPOCH_START, BATCH, BATCH_END, VALIDATION_END, BATCH_DONE, EPOCH_END = (
    "epoch_start",
    "batch",
    "batch_end",
    "validation_end",
    "batch_done",
    "epoch_end",
)


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
        phase: Where in the loop the run is.
        is_last_batch: Whether the running batch is the last of its epoch.
    """

    epoch: int = 0
    batch_idx: int = 0
    total_batches: int = 0
    optimizer_steps: int = 0
    batches_that_stepped: int = 0
    scheduler_steps: int = 0
    phase: str = EPOCH_START
    is_last_batch: bool = False

    def restart_epoch(self) -> None:
        """A new fit begins at the start of an epoch, whatever ended the one before."""
        self.batch_idx, self.phase, self.is_last_batch = 0, EPOCH_START, False

    def is_accumulating(self, every: int) -> bool:
        """Whether the gradients of the batches that are done are open: the next batch adds to them.

        Args:
            every: Batches per optimizer step.
        """
        if self.phase in (EPOCH_START, EPOCH_END) or (self.is_last_batch and self.phase != BATCH):
            return False
        return (self.batch_idx - (1 if self.phase == BATCH else 0)) % every != 0

    def step_back_from_unfinished_batch(self) -> None:
        """A checkpoint taken within a batch holds the weights from before it: the batch is trained on again."""
        if self.phase == BATCH:
            self.batch_idx -= 1
            self.total_batches -= 1
            self.is_last_batch = False

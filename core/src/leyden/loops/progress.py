"""The counters of a fit, and what they look like in a checkpoint that Lightning can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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

    def to_checkpoint(self, automatic: bool, val_batches: int) -> dict[str, Any]:
        """The value of the key "loops", in Lightning's layout."""
        processed = self.phase == EPOCH_END
        started = self.epoch + 1 if self.phase != EPOCH_START else self.epoch
        unfinished = 1 if self.phase == BATCH else 0
        finished_hooks = 1 if self.phase in (BATCH, BATCH_END) else 0
        batches = {
            key: _counts(count, count - finished_hooks, count, count - unfinished)
            for key, count in (("total", self.total_batches), ("current", self.batch_idx))
        }
        epoch = _counts(started, self.epoch, started, self.epoch + int(processed))
        steps = {k: _counts(self.optimizer_steps, self.optimizer_steps) for k in ("total", "current")}
        zeroed = {k: {**v, "started": self.optimizer_steps} for k, v in steps.items()}
        none = {k: _counts(0, 0) for k in ("total", "current")}
        scheduled = {k: _counts(self.scheduler_steps, self.scheduler_steps) for k in ("total", "current")}
        validated = _batches(val_batches, val_batches, self.phase in (VALIDATION_END, EPOCH_END))
        fit = {
            "state_dict": {},
            "epoch_loop.state_dict": {"_batches_that_stepped": self.batches_that_stepped},
            "epoch_loop.batch_progress": {**batches, "is_last_batch": self.is_last_batch},
            "epoch_loop.scheduler_progress": scheduled,
            "epoch_loop.automatic_optimization.state_dict": {},
            "epoch_loop.automatic_optimization.optim_progress": {
                "optimizer": {"step": steps if automatic else none, "zero_grad": zeroed}
            },
            "epoch_loop.manual_optimization.state_dict": {},
            "epoch_loop.manual_optimization.optim_step_progress": none if automatic else steps,
            "epoch_loop.val_loop.state_dict": {},
            "epoch_loop.val_loop.batch_progress": validated,
            "epoch_progress": {"total": epoch, "current": dict(epoch)},
        }
        idle = {"state_dict": {}, "batch_progress": _batches(0, 0, False)}
        return {"fit_loop": fit, "validate_loop": idle, "test_loop": idle, "predict_loop": idle}

    @classmethod
    def from_checkpoint(cls, loops: dict[str, Any], global_step: int) -> Progress:
        """Read the key "loops" of a checkpoint, Leyden's or Lightning's."""
        fit = loops["fit_loop"]
        epochs, batches = fit["epoch_progress"]["current"], fit["epoch_loop.batch_progress"]
        progress = cls(
            epoch=epochs["completed"],
            batch_idx=batches["current"]["ready"],
            total_batches=batches["total"]["ready"],
            optimizer_steps=global_step,
            batches_that_stepped=fit["epoch_loop.state_dict"].get("_batches_that_stepped", 0),
            scheduler_steps=fit["epoch_loop.scheduler_progress"]["total"]["completed"],
            is_last_batch=batches["is_last_batch"],
        )
        if epochs["processed"] > epochs["completed"]:
            progress.phase = EPOCH_END
        elif epochs["started"] > epochs["processed"]:
            current = batches["current"]
            if current["ready"] > current["processed"]:
                progress.phase = BATCH
                progress.step_back_from_unfinished_batch()
            else:
                progress.phase = VALIDATION_END if current["completed"] == current["processed"] else BATCH_END
        else:  # between epochs, where Lightning leaves the counts of the last one standing
            progress.restart_epoch()
        return progress


def _counts(ready: int, completed: int, started: int | None = None, processed: int | None = None) -> dict[str, int]:
    counts = {"ready": ready, "completed": completed}
    if started is not None and processed is not None:
        counts.update(started=started, processed=processed)
    return counts


def _batches(total: int, current: int, is_last: bool) -> dict[str, Any]:
    totals = {"total": _counts(total, total, total, total), "current": _counts(current, current, current, current)}
    return {**totals, "is_last_batch": is_last}

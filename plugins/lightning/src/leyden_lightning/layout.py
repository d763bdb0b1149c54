"""The progress of a fit in the layout of Lightning's checkpoints, under the key "loops"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leyden.plugins import Phase, Progress
from leyden.utilities import MisconfigurationException

VERSION_KEY = "pytorch-lightning_version"
# The version of the layout that is written; Lightning reads it to know what to migrate.
VERSION = "2.6.0"


def loops(progress: Progress, automatic: bool, val_batches: int) -> dict[str, Any]:
    """Return the value of the key "loops".

    Args:
        progress: The fit's progress.
        automatic: Whether the module uses automatic optimization.
        val_batches: The number of batches of the last validation within the fit.
    """
    processed = progress.phase == Phase.EPOCH_END
    started = progress.epoch + 1 if progress.phase != Phase.EPOCH_START else progress.epoch
    unfinished = 1 if progress.phase == Phase.BATCH else 0
    finished_hooks = 1 if progress.phase in (Phase.BATCH, Phase.BATCH_END) else 0
    batches = {
        key: _counts(count, count - finished_hooks, count, count - unfinished)
        for key, count in (("total", progress.total_batches), ("current", progress.batch_idx))
    }
    epoch = _counts(started, progress.epoch, started, progress.epoch + int(processed))
    steps = progress.optimizer_steps if automatic else 0
    manual_steps = progress.optimizer_steps - steps
    scheduled = progress.scheduler_steps
    validated = {
        **_twice(_counts(*[val_batches] * 4)),
        "is_last_batch": progress.phase in (Phase.VALIDATION_END, Phase.EPOCH_END),
    }
    fit = {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": progress.batches_that_stepped},
        "epoch_loop.batch_progress": {**batches, "is_last_batch": progress.is_last_batch},
        "epoch_loop.scheduler_progress": _twice(_counts(scheduled, scheduled)),
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {"step": _twice(_counts(steps, steps)), "zero_grad": _twice(_counts(steps, steps, steps))}
        },
        "epoch_loop.manual_optimization.state_dict": {},
        "epoch_loop.manual_optimization.optim_step_progress": _twice(_counts(manual_steps, manual_steps)),
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": validated,
        "epoch_progress": _twice(epoch),
    }
    none = _twice(_counts(0, 0, 0, 0))
    evaluated = {"state_dict": {}, "batch_progress": {**none, "is_last_batch": False}}
    predicted = {"state_dict": {}, "batch_progress": none}
    return {"fit_loop": fit, "validate_loop": evaluated, "test_loop": evaluated, "predict_loop": predicted}


def _counts(ready: int, completed: int, started: int | None = None, processed: int | None = None) -> dict[str, int]:
    counts = {"ready": ready, "completed": completed, "started": started, "processed": processed}
    return {name: count for name, count in counts.items() if count is not None}


def _twice(counts: dict[str, int]) -> dict[str, Any]:
    """Return the counts as those of the fit and of the epoch; Lightning reads the epoch's only for batches."""
    return {"total": counts, "current": dict(counts)}


def progress(checkpoint: Mapping[str, Any], every: int = 1) -> dict[str, Any]:
    """Return the progress of the fit that wrote a checkpoint of Lightning.

    Args:
        checkpoint: The checkpoint.
        every: Batches per optimizer step, which a checkpoint does not say.

    Returns:
        The attributes of :class:`~leyden.plugins.Progress`.

    Raises:
        MisconfigurationException: The checkpoint has the layout of another version of Lightning.
    """
    try:
        return _read(checkpoint["loops"]["fit_loop"], checkpoint["global_step"], every)
    except KeyError as missing:
        raise MisconfigurationException(
            f"Training can't be resumed from this checkpoint of Lightning {checkpoint[VERSION_KEY]}: it lacks the key "
            f"{missing}, which those of Lightning 2.6 have; convert it with Lightning's own command, "
            "python -m pytorch_lightning.utilities.upgrade_checkpoint, or load its weights with load_from_checkpoint "
            "and start a new fit."
        ) from missing


def _read(fit: Mapping[str, Any], global_step: int, every: int) -> dict[str, Any]:
    epochs, batches = fit["epoch_progress"]["current"], fit["epoch_loop.batch_progress"]
    current = batches["current"]
    place = {
        "epoch": epochs["completed"],
        "batch_idx": current["ready"],
        "total_batches": batches["total"]["ready"],
        "optimizer_steps": global_step,
        "batches_that_stepped": fit["epoch_loop.state_dict"].get("_batches_that_stepped", 0),
        "scheduler_steps": fit["epoch_loop.scheduler_progress"]["total"]["completed"],
        "is_last_batch": batches["is_last_batch"],
        "stepped": current["ready"] % every == 0 or batches["is_last_batch"],
    }
    if epochs["processed"] > epochs["completed"]:
        phase = Phase.EPOCH_END
    elif epochs["started"] <= epochs["processed"]:
        # between epochs Lightning keeps the counts of the last epoch
        return {**place, "phase": Phase.EPOCH_START, "batch_idx": 0, "is_last_batch": False}
    elif current["ready"] > current["processed"]:
        phase = Phase.BATCH
    else:
        phase = Phase.VALIDATION_END if current["completed"] == current["processed"] else Phase.BATCH_END
    return {**place, "phase": phase}

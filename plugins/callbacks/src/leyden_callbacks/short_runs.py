"""The last step of a fit of fewer steps than ``log_every_n_steps``, of which loggers would see no step at all.

The records of an epoch are gone when the fit ends, so their values are kept at the end of each epoch. A validation may
ask the fit to stop. Where it was asked before that, the loop has sent the last step itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.plugins import StashKey

if TYPE_CHECKING:
    from leyden import Trainer

LAST = StashKey[tuple[int, int, dict[str, Any]]]()  # epoch and number of a step that no logger has seen; its values


def keep(trainer: Trainer, counted: bool) -> None:
    """Keep the values of the last step.

    Args:
        trainer: The Trainer, in a fit: at the start of a validation, or at the end of an epoch.
        counted: Whether the last step is counted already, as at the end of an epoch.
    """
    if _has_logged_steps(trainer) or trainer.should_stop or trainer.sanity_checking:
        return
    records = trainer.fit_loop.results.records.values()
    of_steps = [record for record in records if record.options.on_step and record.options.logger]
    values = {record.step_name: record.step_value() for record in of_steps}
    progress = trainer.progress
    step = progress.batches_that_stepped - (counted or not progress.stepped)
    trainer.run.stash[LAST] = (progress.epoch, step, {name: x for name, x in values.items() if x is not None})


def send(trainer: Trainer) -> None:
    """Give the loggers the values of the last step; called when training ends."""
    epoch, step, values = trainer.run.stash.get(LAST, (0, -1, {}))
    if not values or _has_logged_steps(trainer) or step != trainer.progress.batches_that_stepped - 1:
        return
    numbers = {"epoch": epoch, **{name: value.item() for name, value in values.items()}}
    step = int(numbers.pop("step", step))  # a logged "step" takes the place of the number
    for logger in trainer.loggers:
        logger.log_metrics(dict(numbers), step=step)


def _has_logged_steps(trainer: Trainer) -> bool:
    """Whether loggers have seen a step, or are not to see one."""
    every: int = trainer.log_every_n_steps
    wants_none = not every or not trainer.loggers or trainer.fast_dev_run
    return bool(wants_none) or trainer.progress.batches_that_stepped >= every

"""Jobs that their cluster may run again: a run that is asked to end is saved, and goes on from there the next time."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from leyden.utilities.rank_zero import rank_zero_info
from leyden.utilities.storage import entries
from leyden_ddp.signals import REQUEUE

if TYPE_CHECKING:
    from leyden.trainer import Trainer


def save(trainer: Trainer, reason: str) -> None:
    """Save the run as ``hpc_ckpt_N.ckpt`` where the cluster may run its job again, and ask it to if it said so.

    Args:
        trainer: Whose run ends.
        reason: Why; :data:`~leyden_ddp.signals.REQUEUE` after the cluster's own signal.
    """
    if not _may_run_again(trainer):
        return
    path = _path(trainer, _newest(trainer) + 1)
    trainer.save_checkpoint(path)
    rank_zero_info(f"The run is saved at {path!r}, from where it goes on when the job runs again.")
    environment = trainer.strategy.environment
    if reason == REQUEUE and trainer.is_global_zero and environment is not None:
        environment.requeue()


def saved_last(trainer: Trainer) -> str:
    """What ``ckpt_path="hpc"`` stands for: the newest ``hpc_ckpt_N.ckpt`` in ``default_root_dir``.

    Raises:
        ValueError: There is none.
    """
    newest = _newest(trainer)
    if not newest:
        raise ValueError(f'ckpt_path="hpc": there is no hpc_ckpt_N.ckpt in {trainer.default_root_dir!r}.')
    return _path(trainer, newest)


def goes_on_from(trainer: Trainer) -> str | None:
    """Where a fit without ``ckpt_path`` goes on if its job has been run again; None for a new one."""
    if not _may_run_again(trainer) or not _newest(trainer):
        return None
    path = saved_last(trainer)
    rank_zero_info(f"The run goes on from {path!r}, which it left when the job was queued again.")
    return path


def _may_run_again(trainer: Trainer) -> bool:
    environment = trainer.strategy.environment
    return environment is not None and environment.requeue_signal is not None


def _path(trainer: Trainer, number: int) -> str:
    return os.path.join(trainer.default_root_dir, f"hpc_ckpt_{number}.ckpt")


def _newest(trainer: Trainer) -> int:
    """The highest N of the ``hpc_ckpt_N.ckpt``; 0 where there is none."""
    names = entries(trainer.default_root_dir, "file")
    return max((int(match[1]) for name in names if (match := re.fullmatch(r"hpc_ckpt_(\d+)\.ckpt", name))), default=0)

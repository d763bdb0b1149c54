"""Jobs that a cluster may run again: a run that is asked to end is saved, and the next job resumes it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from leyden.utilities.rank_zero import rank_zero_info
from leyden.utilities.storage import entries
from leyden_ddp.signals import REQUEUE

if TYPE_CHECKING:
    from leyden import Trainer


def save(trainer: Trainer, reason: str) -> None:
    """Save the run as ``hpc_ckpt_N.ckpt`` if the cluster may run its job again; after its signal, ask it to do so.

    Args:
        trainer: The Trainer whose run ends.
        reason: Why it ends; :data:`~leyden_ddp.signals.REQUEUE` after the cluster's own signal.
    """
    if not _may_run_again(trainer):
        return
    path = _path(trainer, _newest(trainer) + 1)
    trainer.save_checkpoint(path)
    rank_zero_info(f"The run is saved at {path!r}, and is resumed from there when the job runs again.")
    environment = trainer.strategy.environment
    if reason == REQUEUE and trainer.is_global_zero and environment is not None:
        environment.requeue()


def saved_last(trainer: Trainer) -> str:
    """The checkpoint that ``ckpt_path="hpc"`` names: the newest ``hpc_ckpt_N.ckpt`` in ``default_root_dir``.

    Raises:
        ValueError: There is no such file.
    """
    newest = _newest(trainer)
    if not newest:
        raise ValueError(f'ckpt_path="hpc": there is no hpc_ckpt_N.ckpt in {trainer.default_root_dir!r}.')
    return _path(trainer, newest)


def resumes_from(trainer: Trainer) -> str | None:
    """The checkpoint from which a fit without ``ckpt_path`` resumes if its job is run again; None for a new job."""
    if not _may_run_again(trainer) or not _newest(trainer):
        return None
    path = saved_last(trainer)
    rank_zero_info(f"The run is resumed from {path!r}, where it was saved when the job was queued again.")
    return path


def _may_run_again(trainer: Trainer) -> bool:
    environment = trainer.strategy.environment
    return environment is not None and environment.requeue_signal is not None


def _path(trainer: Trainer, number: int) -> str:
    return os.path.join(trainer.default_root_dir, f"hpc_ckpt_{number}.ckpt")


def _newest(trainer: Trainer) -> int:
    """The highest N of the files ``hpc_ckpt_N.ckpt``; 0 where there is none."""
    names = entries(trainer.default_root_dir, "file")
    return max((int(match[1]) for name in names if (match := re.fullmatch(r"hpc_ckpt_(\d+)\.ckpt", name))), default=0)

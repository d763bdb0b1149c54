"""Ending a fit at a step boundary because the process was asked to; saving it first where it will be run again."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from leyden.utilities.exceptions import SIGTERMException
from leyden.utilities.rank_zero import rank_zero_info
from leyden.utilities.storage import file_names

if TYPE_CHECKING:
    from leyden.trainer import Trainer

SIGTERM, REQUEUE = "SIGTERM", "requeue"


def obey(trainer: Trainer, reason: str) -> None:
    """End the fit; where the cluster may run the job again save it first, as ``hpc_ckpt_N.ckpt``.

    Raises:
        SIGTERMException: Always.
    """
    environment = trainer.strategy.environment
    if environment is not None and environment.requeue_signal is not None:
        path = os.path.join(trainer.default_root_dir, f"hpc_ckpt_{newest_requeued(trainer.default_root_dir) + 1}.ckpt")
        trainer.save_checkpoint(path)
        rank_zero_info(f"The run is saved at {path!r}, from where it goes on when the job runs again.")
        if reason == REQUEUE and trainer.is_global_zero:
            environment.requeue()
    raise SIGTERMException


def newest_requeued(directory: str) -> int:
    """The highest N of the ``hpc_ckpt_N.ckpt`` in a directory; 0 where there is none."""
    numbers = [
        int(match[1]) for name in file_names(directory) if (match := re.fullmatch(r"hpc_ckpt_(\d+)\.ckpt", name))
    ]
    return max(numbers, default=0)

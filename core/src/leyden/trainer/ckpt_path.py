"""Which checkpoint ``ckpt_path`` means: a path or URL, "hpc", a name that a plugin knows ("best", say), or nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from leyden.loops.ending import newest_requeued
from leyden.registry import Registry
from leyden.states import TrainerFn
from leyden.utilities.rank_zero import rank_zero_info
from leyden.utilities.storage import is_remote, local_path

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer


def select_checkpoint(trainer: Trainer, fn: TrainerFn, ckpt_path: Any, model_provided: bool) -> str | None:
    """The path of the checkpoint to load, or None for the weights as they are.

    Raises:
        FileNotFoundError: There is no checkpoint at the path.
        ValueError: A name such as "best" or "hpc", and there is no checkpoint of it.
    """
    if ckpt_path is None and fn == TrainerFn.FITTING:
        return _after_requeue(trainer)
    if ckpt_path is None and model_provided:
        return None
    name = os.fspath(ckpt_path) if isinstance(ckpt_path, os.PathLike) else ckpt_path
    if name is not None and not isinstance(name, str):
        raise TypeError(f'ckpt_path={ckpt_path!r} is no path; write one, or "best", "last" or "hpc".')
    if name == "hpc":
        return _hpc(trainer)
    hook = trainer.plugin_manager.hook.leyden_find_checkpoint
    found: str | None = hook(trainer=trainer, ckpt_path=name)
    if found is not None or name is None:
        return found or None
    if not is_remote(name) and not local_path(name).exists():
        message = f"There is no checkpoint at ckpt_path={name!r}."
        if not hook.get_hookimpls():
            advice = Registry(trainer.plugin_manager).advice("checkpoint")
            message += f" Names such as 'best' are a plugin's to know: {advice}."
        raise FileNotFoundError(message)
    return name


def _hpc(trainer: Trainer) -> str:
    """The newest checkpoint that a cluster's requeue left in ``default_root_dir``."""
    newest = newest_requeued(trainer.default_root_dir)
    if not newest:
        raise ValueError(f'ckpt_path="hpc": there is no hpc_ckpt_N.ckpt in {trainer.default_root_dir!r}.')
    return os.path.join(trainer.default_root_dir, f"hpc_ckpt_{newest}.ckpt")


def _after_requeue(trainer: Trainer) -> str | None:
    """Where the run goes on if the cluster runs its job again."""
    environment = trainer.strategy.environment
    if environment is None or environment.requeue_signal is None or not newest_requeued(trainer.default_root_dir):
        return None
    path = _hpc(trainer)
    rank_zero_info(f"The run goes on from {path!r}, which it left when the job was queued again.")
    return path

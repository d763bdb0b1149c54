"""Which checkpoint ``ckpt_path`` means: a path or URL, "best", "last", "hpc", or nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from leyden.loops.ending import newest_requeued
from leyden.states import TrainerFn
from leyden.utilities.rank_zero import rank_zero_info, rank_zero_warn
from leyden.utilities.storage import is_remote, local_path

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer


def select_checkpoint(trainer: Trainer, fn: TrainerFn, ckpt_path: Any, model_provided: bool) -> str | None:
    """The path of the checkpoint to load, or None for the weights as they are.

    Raises:
        FileNotFoundError: There is no checkpoint at the path.
        ValueError: "best" or "hpc" and there is none.
    """
    if ckpt_path is None:
        if fn == TrainerFn.FITTING:
            return _after_requeue(trainer)
        if model_provided:
            return None
        return _best_of_last_fit(trainer, fn)
    name = os.fspath(ckpt_path) if isinstance(ckpt_path, os.PathLike) else ckpt_path
    if not isinstance(name, str):
        raise TypeError(f'ckpt_path={ckpt_path!r} is no path; write one, or "best", "last" or "hpc".')
    if name in ("best", "last", "hpc"):
        return {"best": _best, "last": _last, "hpc": _hpc}[name](trainer)
    if not is_remote(name) and not local_path(name).exists():
        raise FileNotFoundError(f"There is no checkpoint at ckpt_path={name!r}.")
    return name


def _best_of_last_fit(trainer: Trainer, fn: TrainerFn) -> str | None:
    best = next((c.best_model_path for c in trainer.checkpoint_callbacks if getattr(c, "best_model_path", "")), None)
    if best is None:
        return None
    rank_zero_info(
        f"Trainer.{fn} was called without a model: it takes the best weights of the last fit, {best!r}. "
        f'Say so with ckpt_path="best", or pass the model to take its weights as they are.'
    )
    return str(best)


def _best(trainer: Trainer) -> str:
    if trainer.fast_dev_run:
        raise ValueError('ckpt_path="best" means nothing after fast_dev_run, which saves nothing.')
    callbacks = trainer.checkpoint_callbacks
    if not callbacks:
        raise ValueError('ckpt_path="best" needs a checkpoint callback, and this Trainer has none.')
    if len(callbacks) > 1:
        rank_zero_warn(f'ckpt_path="best": of {len(callbacks)} checkpoint callbacks, the first one\'s best is taken.')
    best = getattr(callbacks[0], "best_model_path", "")
    if not best:
        raise ValueError('ckpt_path="best": the checkpoint callback has saved nothing yet; fit first.')
    return str(best)


def _last(trainer: Trainer) -> str | None:
    """The newest of what the checkpoint callbacks kept as their last."""
    candidates: set[str] = set()
    for callback in trainer.checkpoint_callbacks:
        find = getattr(callback, "_find_last_checkpoints", None)
        candidates |= {str(path) for path in find(trainer)} if find is not None else set()
        candidates |= {str(getattr(callback, "last_model_path", "") or "")} - {""}
    existing = [path for path in candidates if is_remote(path) or local_path(path).exists()]
    if not existing:
        rank_zero_warn('ckpt_path="last": no last checkpoint was found; the run starts from the weights as they are.')
        return None
    return max(existing, key=lambda path: local_path(path).stat().st_mtime if not is_remote(path) else 0.0)


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

"""Finds the checkpoint for ``ckpt_path="best"``, ``ckpt_path="last"`` and no ``ckpt_path``, among those kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leyden.utilities.rank_zero import rank_zero_info, rank_zero_warn
from leyden.utilities.storage import is_remote, local_path

if TYPE_CHECKING:
    from leyden import Trainer


def best_of_last_fit(trainer: Trainer, fn: str) -> str | None:
    """Return the path of the last fit's best checkpoint, for a run that is called without a model.

    Args:
        trainer: The Trainer.
        fn: The Trainer method that was called, such as "test".

    Returns:
        The path; None in a fit, and if no checkpoint callback has a best checkpoint.
    """
    if fn == "fit":
        return None
    best = next((c.best_model_path for c in trainer.checkpoint_callbacks if getattr(c, "best_model_path", "")), None)
    if best is None:
        return None
    rank_zero_info(
        f"Trainer.{fn} was called without a model: it uses the best weights of the last fit, {best!r}. "
        f'Pass ckpt_path="best" to ask for them, or pass the model to use its current weights.'
    )
    return str(best)


def best(trainer: Trainer) -> str:
    """Return the path of the first checkpoint callback's best checkpoint.

    Raises:
        ValueError: There is no checkpoint callback, it has saved nothing, or the run was a ``fast_dev_run``.
    """
    if trainer.fast_dev_run:
        raise ValueError('ckpt_path="best" can\'t be used with fast_dev_run, which saves no checkpoints.')
    callbacks = trainer.checkpoint_callbacks
    if not callbacks:
        raise ValueError('ckpt_path="best" needs a checkpoint callback, and this Trainer has none.')
    if len(callbacks) > 1:
        rank_zero_warn(f'ckpt_path="best" uses the first of {len(callbacks)} checkpoint callbacks.')
    path = getattr(callbacks[0], "best_model_path", "")
    if not path:
        raise ValueError('ckpt_path="best": the checkpoint callback has saved nothing yet; call fit first.')
    return str(path)


def last(trainer: Trainer) -> str:
    """Return the path of the newest "last" checkpoint of all callbacks; warn and return "" if none exists."""
    candidates: set[str] = set()
    for callback in trainer.checkpoint_callbacks:
        find = getattr(callback, "_find_last_checkpoints", None)
        candidates |= {str(path) for path in find(trainer)} if find is not None else set()
        candidates |= {str(getattr(callback, "last_model_path", "") or "")} - {""}
    existing = [path for path in candidates if is_remote(path) or local_path(path).exists()]
    if not existing:
        rank_zero_warn('ckpt_path="last": no last checkpoint was found; the run starts from the current weights.')
        return ""
    return max(existing, key=lambda path: local_path(path).stat().st_mtime if not is_remote(path) else 0.0)

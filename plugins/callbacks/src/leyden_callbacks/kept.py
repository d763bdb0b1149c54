"""Which checkpoint ``ckpt_path`` means by "best", by "last" or by nothing: what the checkpoint callbacks have kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leyden.utilities.rank_zero import rank_zero_info, rank_zero_warn
from leyden.utilities.storage import is_remote, local_path

if TYPE_CHECKING:
    from leyden import Trainer


def best_of_last_fit(trainer: Trainer, fn: str) -> str | None:
    """The best weights of the last fit, for a run without a model; None for a fit, and where no callback has any."""
    if fn == "fit":
        return None
    best = next((c.best_model_path for c in trainer.checkpoint_callbacks if getattr(c, "best_model_path", "")), None)
    if best is None:
        return None
    rank_zero_info(
        f"Trainer.{fn} was called without a model: it takes the best weights of the last fit, {best!r}. "
        f'Say so with ckpt_path="best", or pass the model to take its weights as they are.'
    )
    return str(best)


def best(trainer: Trainer) -> str:
    """The best of the first checkpoint callback.

    Raises:
        ValueError: There is no such callback, or it has saved nothing.
    """
    if trainer.fast_dev_run:
        raise ValueError('ckpt_path="best" means nothing after fast_dev_run, which saves nothing.')
    callbacks = trainer.checkpoint_callbacks
    if not callbacks:
        raise ValueError('ckpt_path="best" needs a checkpoint callback, and this Trainer has none.')
    if len(callbacks) > 1:
        rank_zero_warn(f'ckpt_path="best": of {len(callbacks)} checkpoint callbacks, the first one\'s best is taken.')
    path = getattr(callbacks[0], "best_model_path", "")
    if not path:
        raise ValueError('ckpt_path="best": the checkpoint callback has saved nothing yet; fit first.')
    return str(path)


def last(trainer: Trainer) -> str:
    """The newest of what the checkpoint callbacks kept as their last; "" where there is none, which is said."""
    candidates: set[str] = set()
    for callback in trainer.checkpoint_callbacks:
        find = getattr(callback, "_find_last_checkpoints", None)
        candidates |= {str(path) for path in find(trainer)} if find is not None else set()
        candidates |= {str(getattr(callback, "last_model_path", "") or "")} - {""}
    existing = [path for path in candidates if is_remote(path) or local_path(path).exists()]
    if not existing:
        rank_zero_warn('ckpt_path="last": no last checkpoint was found; the run starts from the weights as they are.')
        return ""
    return max(existing, key=lambda path: local_path(path).stat().st_mtime if not is_remote(path) else 0.0)

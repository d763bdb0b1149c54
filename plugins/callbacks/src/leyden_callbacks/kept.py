"""Finds the checkpoint for ``ckpt_path="best"``, ``ckpt_path="last"`` and no ``ckpt_path``, among those kept."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from leyden.plugins import by_state_key
from leyden.utilities.rank_zero import rank_zero_info, rank_zero_warn
from leyden_callbacks import storage
from leyden_callbacks.checkpoint_files import CheckpointFiles

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
    """Return the path of the first checkpoint callback's best checkpoint, in a new process that of the newest run.

    Raises:
        ValueError: There is no checkpoint callback, it has saved nothing, or the run was a ``fast_dev_run``; or it is
            not known which of an earlier run's checkpoints is the best.
    """
    if trainer.fast_dev_run:
        raise ValueError('ckpt_path="best" can\'t be used with fast_dev_run, which saves no checkpoints.')
    callbacks = trainer.checkpoint_callbacks
    if not callbacks:
        raise ValueError('ckpt_path="best" needs a checkpoint callback, and this Trainer has none.')
    if len(callbacks) > 1:
        rank_zero_warn(f'ckpt_path="best" uses the first of {len(callbacks)} checkpoint callbacks.')
    if path := getattr(callbacks[0], "best_model_path", ""):
        return str(path)
    found = _best_of_earlier_run(trainer, callbacks[0]) if isinstance(callbacks[0], CheckpointFiles) else None
    if found is None:
        raise ValueError('ckpt_path="best": the checkpoint callback has saved nothing yet; call fit first.')
    rank_zero_info(f'ckpt_path="best" is {found!r}, of an earlier run.')
    return found


def _best_of_earlier_run(trainer: Trainer, callback: CheckpointFiles) -> str | None:
    """Return the path of the best checkpoint of the newest run that has any; None if there is none.

    The newest of them says which one it is, in the callback's state.
    """
    paths = callback._find_checkpoints(trainer, earlier=False) or callback._find_checkpoints(trainer, earlier=True)
    if not paths:
        return None
    newest = storage.newest(paths)
    directory = os.path.dirname(newest)
    kept = {path for path in paths if os.path.dirname(path) == directory}
    if len(kept) == 1:
        return newest
    key = next(key for key, one in by_state_key(trainer.callbacks).items() if one is callback)
    saved = {} if storage.is_directory(newest) else trainer.strategy.checkpoint_io.load_checkpoint(newest, "cpu")
    state = saved.get("callbacks", {}).get(key, {})
    # of a path that stands in a file only the name counts, beside the file
    named = os.path.join(directory, os.path.basename(state.get("best_model_path") or ""))
    if named not in kept:
        raise ValueError(
            f'ckpt_path="best": {newest!r} does not say which of the {len(kept)} checkpoints in its directory is the '
            "best; pass the path of one."
        )
    return named


def last(trainer: Trainer) -> str:
    """Return the path of the newest "last" checkpoint of all callbacks; warn and return "" if there is none.

    Where this run has none yet, it is that of an earlier run under the same root. A run that has no file of
    ``save_last`` has its newest checkpoint instead.
    """
    callbacks = trainer.checkpoint_callbacks
    known = {str(getattr(callback, "last_model_path", "") or "") for callback in callbacks} - {""}
    files = [callback for callback in callbacks if isinstance(callback, CheckpointFiles)]
    resumable = [callback for callback in files if not getattr(callback, "save_weights_only", False)]
    for earlier in (False, True):
        found = {path for callback in files for path in callback._find_last_checkpoints(trainer, earlier)} | known
        found = {path for path in found if storage.exists(path)}
        found = found or {path for callback in resumable for path in callback._find_checkpoints(trainer, earlier)}
        if found:
            path = storage.newest(found)
            rank_zero_info(f'ckpt_path="last" is {path!r}{", of an earlier run" if earlier else ""}.')
            return path
    rank_zero_warn('ckpt_path="last": no last checkpoint was found; the run starts from the current weights.')
    return ""

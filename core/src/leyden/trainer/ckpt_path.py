"""Which checkpoint ``ckpt_path`` means: a path or URL, a name that a plugin knows ("best", say), or nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from leyden.plugin_system.catalogue import published_by
from leyden.utilities.states import TrainerFn
from leyden.utilities.storage import is_remote, local_path

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer


def select_checkpoint(trainer: Trainer, fn: TrainerFn, ckpt_path: Any, model_provided: bool) -> str | None:
    """The path of the checkpoint to load, or None for the weights as they are.

    Raises:
        FileNotFoundError: There is no checkpoint at the path.
        ValueError: A name such as "best", and there is no checkpoint of it.
    """
    if ckpt_path is None and model_provided and fn != TrainerFn.FITTING:
        return None
    name = os.fspath(ckpt_path) if isinstance(ckpt_path, os.PathLike) else ckpt_path
    if name is not None and not isinstance(name, str):
        raise TypeError(f'ckpt_path={ckpt_path!r} is no path; write one, or "best", "last" or "hpc".')
    found: str | None = trainer.plugin_manager.hook.leyden_find_checkpoint(trainer=trainer, ckpt_path=name)
    if found is not None or name is None:
        return found or None
    if not is_remote(name) and not local_path(name).exists():
        message = f"There is no checkpoint at ckpt_path={name!r}."
        if published_by("checkpoint", name)[0]:
            advice = trainer.plugin_manager.advice(name, "checkpoint")
            message += f" What this name stands for is a plugin's to know: {advice}."
        raise FileNotFoundError(message)
    return name

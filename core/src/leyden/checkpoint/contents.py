"""What a run's checkpoint holds: making it, and putting a run back where it was.

The keys are those of Lightning; the key ``leyden`` holds what an exact resume needs beside them: the place in the
loop, random states, and open metric accumulations. Where the fit of another framework stood is for a plugin to say.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leyden.utilities import MisconfigurationException, move_data_to_device, rank_zero_info, rank_zero_warn
from leyden.utilities.plain import to_plain

if TYPE_CHECKING:
    from leyden.trainer import Trainer
    from leyden.trainer.run import Run

CHECKPOINT_KEY = "leyden"
OWN_VERSION = 5  # of what is under it
# By version, what makes of plain data in its layout that of the next; one for each that was ever released.
TRANSLATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
NEW_FIT = "load its weights with load_from_checkpoint and start a new fit"


def dump(run: Run, weights_only: bool = False) -> dict[str, Any]:
    """The checkpoint of a run as plain data and tensors.

    Args:
        run: The run.
        weights_only: Leave out what only training needs: optimizers, schedulers, callbacks, random states.
    """
    trainer, strategy, module = run.trainer, run.strategy, run.module
    checkpoint: dict[str, Any] = {
        "epoch": run.current_epoch,
        "global_step": run.global_step,
        "state_dict": strategy.module_state_dict(module),
    }
    if not weights_only:
        checkpoint["callbacks"] = {k: s for k, c in by_state_key(trainer.callbacks).items() if (s := c.state_dict())}
        checkpoint["optimizer_states"] = [strategy.optimizer_state_dict(o) for o in run.optimizers]
        checkpoint["lr_schedulers"] = [scheduler.state_dict() for scheduler in run.lr_schedulers]
        if state := strategy.precision.state_dict():
            checkpoint[type(strategy.precision).__qualname__] = state
        ranks = strategy.all_gather_object(move_data_to_device(_state_of_rank(run), torch.device("cpu")))
        checkpoint[CHECKPOINT_KEY] = {"version": OWN_VERSION, "plugins": _plugins(run), "ranks": ranks}
    for owner in run.owners:
        if owner.hparams:
            checkpoint[owner.CHECKPOINT_HYPER_PARAMS_NAME] = owner._hparams_name
            checkpoint[owner.CHECKPOINT_HYPER_PARAMS_KEY] = dict(owner.hparams)
    if run.datamodule is not None and (state := run.datamodule.state_dict()):
        checkpoint[type(run.datamodule).__qualname__] = state
    if weights_only:
        trainer.plugin_manager.hook.on_save_checkpoint(trainer=trainer, pl_module=module, checkpoint=checkpoint)
        module.on_save_checkpoint(checkpoint)
    else:
        run.hooks.on_save_checkpoint(checkpoint)
    dropped: list[str] = []
    plain: dict[str, Any] = to_plain(checkpoint, dropped=dropped)
    trainer.plugin_manager.hook.leyden_seal(owner=trainer, checkpoint=checkpoint, plain=plain, dropped=dropped)
    if news := run.not_told(dropped):
        rank_zero_warn(f"Left out of the checkpoint, since loading it would mean running code: {', '.join(news)}.")
    return plain


def by_state_key(callbacks: list[Any]) -> dict[str, Any]:
    """Callbacks by the keys of their states in a checkpoint: the second with one ``state_key`` has it with "#2".

    Their distinctions say which is the second, so that a Trainer may get them in any order.
    """
    keyed: dict[str, Any] = {}
    for callback in sorted(callbacks, key=lambda each: each.distinction):
        number = sum(callback.state_key == each.state_key for each in keyed.values()) + 1
        keyed[callback.state_key if number == 1 else f"{callback.state_key}#{number}"] = callback
    return keyed


def _state_of_rank(run: Run) -> dict[str, Any]:
    """What an exact resume needs of this process."""
    return {
        "fit": run.trainer.fit_loop.state_dict(),
        "gradients": run.step.state_dict() if run.step is not None else {},
        "plugins": _states_of_plugins(run.trainer),
        "callback_metrics": {k: v for k, v in run.metrics.callback_metrics.items() if isinstance(v, Tensor)},
    }


def _states_of_plugins(trainer: Trainer) -> dict[str, Any]:
    """What plugins keep of this process, each under a key of its own."""
    hook = trainer.plugin_manager.hook.leyden_rank_state
    found = hook(trainer=trainer)
    states = dict(ChainMap(*found))
    if len(states) < sum(map(len, found)):
        key = next(key for key in states if sum(key in state for state in found) > 1)
        impls: list[Any] = [impl for impl in hook.get_hookimpls() if not impl.wrapper]
        owners = [i.plugin_name for i in impls if key in (i.function(*(trainer for _ in i.argnames)) or ())]
        raise MisconfigurationException(
            f"The plugins {' and '.join(map(repr, owners))} return the same key from leyden_rank_state, {key!r}, for "
            "their states in checkpoints; one of them must take another."
        )
    return states


def _plugins(run: Run) -> list[list[str]]:
    return [[record.name, record.version] for record in run.trainer.plugin_manager.active]


# -- restoring ----------------------------------------------------------------------------------------------


def restore_module(run: Run, checkpoint: dict[str, Any]) -> None:
    """Put back weights and data-module and callback states; before the module is moved to its device."""
    run.hooks.on_load_checkpoint(checkpoint)
    run.strategy.load_module_state_dict(run.module, checkpoint["state_dict"], strict=run.module.strict_loading)
    if run.datamodule is not None and (state := checkpoint.get(type(run.datamodule).__qualname__)) is not None:
        run.datamodule.load_state_dict(state)
    states = dict(checkpoint.get("callbacks") or {})
    for key, callback in by_state_key(run.trainer.callbacks).items():
        if key in states:
            callback.load_state_dict(states.pop(key))
    if run.is_fit and states:
        rank_zero_warn(f"The checkpoint holds the state of callbacks that this Trainer has not: {', '.join(states)}.")


def restore_training(run: Run, checkpoint: dict[str, Any]) -> None:
    """Put back optimizers, schedulers, counters and random states; after optimizers are made.

    Raises:
        MisconfigurationException: The checkpoint has weights only, belongs to other optimizers, is another version's,
            or is another framework's that no plugin knows.
    """
    if "optimizer_states" not in checkpoint:
        raise MisconfigurationException(
            f"Training can't be resumed from a checkpoint of weights alone (save_weights_only=True); {NEW_FIT}."
        )
    optimizers, schedulers, strategy = run.optimizers, run.lr_schedulers, run.strategy
    states, scheduler_states = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    if len(states) != len(optimizers) or len(scheduler_states) != len(schedulers):
        raise MisconfigurationException(
            f"The checkpoint has {len(states)} optimizers and {len(scheduler_states)} schedulers, and the module "
            f"{len(optimizers)} and {len(schedulers)}; make the same in configure_optimizers."
        )
    for optimizer, state in zip(optimizers, states, strict=True):
        strategy.load_optimizer_state_dict(optimizer, state)
    for scheduler, state in zip(schedulers, scheduler_states, strict=True):
        scheduler.load_state_dict(state)
    if (state := checkpoint.get(type(strategy.precision).__qualname__)) is not None:
        strategy.precision.load_state_dict(state)
    if CHECKPOINT_KEY in checkpoint:
        _restore_fit(run, checkpoint[CHECKPOINT_KEY])
    else:
        _restore_fit_of_another_framework(run, checkpoint)


def _restore_fit(run: Run, own: dict[str, Any]) -> None:
    while (translate := TRANSLATIONS.get(own["version"])) is not None:
        own = {**translate(own), "version": own["version"] + 1}
    if own["version"] != OWN_VERSION:
        raise MisconfigurationException(
            f"Training can't be resumed from this checkpoint: it is of version {own['version']}, and this Leyden reads "
            f"version {OWN_VERSION}. Resume with the Leyden that wrote it, or {NEW_FIT}."
        )
    _tell_of_plugins(run, own["plugins"])
    ranks, world, loop = own["ranks"], run.strategy.world_size, run.loop
    hook = run.trainer.plugin_manager.hook.leyden_restore_rank_state
    hook(trainer=run.trainer, states=[rank["plugins"] for rank in ranks])
    if len(ranks) == world:
        own = ranks[run.strategy.global_rank]
        loop.load_state_dict(own["fit"])
        assert run.step is not None
        run.step.load_state_dict(own["gradients"])
    else:  # after as many samples as the run of other processes had seen of the epoch
        own, progress = ranks[0], run.progress
        loop.load_state_dict({"progress": own["fit"]["progress"]})
        progress.batch_idx = progress.batch_idx * len(ranks) // world
        rank_zero_info(
            f"The checkpoint is from a run of {len(ranks)} processes, and there are {world}: the run is not exact, and "
            f"goes on after batch {progress.batch_idx} of epoch {progress.epoch} with random states of its own."
        )
    run.metrics.callback_metrics.update(own["callback_metrics"])


def _restore_fit_of_another_framework(run: Run, checkpoint: dict[str, Any]) -> None:
    manager = run.trainer.plugin_manager
    found = manager.hook.leyden_read_progress(trainer=run.trainer, checkpoint=checkpoint)
    if found is None:
        known = bool(manager.hook.leyden_read_progress.get_hookimpls())
        advice = "" if known else f" (for Lightning's: {manager.advice('progress')})"
        raise MisconfigurationException(
            "Training can't be resumed from this checkpoint: it was not written by Leyden, and no installed plugin "
            f"knows how far its fit had come{advice}. Install one, or {NEW_FIT}."
        )
    run.loop.load_state_dict({"progress": found})
    rank_zero_info("The checkpoint was not written by Leyden: without random states, the resumed run is not exact.")


def _tell_of_plugins(run: Run, saved: list[list[str]]) -> None:
    now = _plugins(run)
    gone = ", ".join(" ".join(plugin) for plugin in saved if plugin not in now) or "none"
    new = ", ".join(" ".join(plugin) for plugin in now if plugin not in saved) or "none"
    if sorted(now) != sorted(saved):
        rank_zero_info(f"The plugins differ from those of the checkpoint: {gone} missing, {new} more.")

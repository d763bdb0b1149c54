"""What a run's checkpoint holds: making it, and putting a run back where it was.

The keys are those of Lightning; the key ``leyden`` holds what an exact resume needs beside them: the place in the
loop, random states, and open metric accumulations. Where the fit of another framework stood is for a plugin to say.
"""

from __future__ import annotations

from collections import ChainMap
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leyden.utilities.batch import move_data_to_device
from leyden.utilities.exceptions import MisconfigurationException, UnknownComponentError
from leyden.utilities.plain import to_plain
from leyden.utilities.rank_zero import rank_zero_info, rank_zero_warn

if TYPE_CHECKING:
    from leyden.mixins.hparams import HyperparametersMixin
    from leyden.trainer.run import Run

OWN_KEY = "leyden"
OWN_VERSION = 4  # of what is under it


def dump(run: Run, weights_only: bool = False) -> dict[str, Any]:
    """The checkpoint of a run as plain data and tensors.

    Args:
        run: The run.
        weights_only: Leave out what only training needs: optimizers, schedulers, callbacks, random states.
    """
    trainer, strategy, module, datamodule = run.trainer, run.strategy, run.module, run.datamodule
    checkpoint: dict[str, Any] = {
        "epoch": run.current_epoch,
        "global_step": run.global_step,
        "state_dict": strategy.module_state_dict(module),
    }
    if not weights_only:
        checkpoint["callbacks"] = {c.state_key: state for c in trainer.callbacks if (state := c.state_dict())}
        checkpoint["optimizer_states"] = [strategy.optimizer_state_dict(o) for o in run.optimizers]
        checkpoint["lr_schedulers"] = [scheduler.state_dict() for scheduler in run.lr_schedulers]
        if state := strategy.precision.state_dict():
            checkpoint[type(strategy.precision).__qualname__] = state
        ranks = strategy.all_gather_object(move_data_to_device(_state_of_rank(run), torch.device("cpu")))
        checkpoint[OWN_KEY] = {"version": OWN_VERSION, "plugins": _plugins(run), "ranks": ranks}
    _add_hparams(checkpoint, module)
    if datamodule is not None:
        _add_hparams(checkpoint, datamodule)
        if state := datamodule.state_dict():
            checkpoint[type(datamodule).__qualname__] = state
    if weights_only:
        trainer.plugin_manager.hook.on_save_checkpoint(trainer=trainer, pl_module=module, checkpoint=checkpoint)
        module.on_save_checkpoint(checkpoint)
    else:
        run.hooks.on_save_checkpoint(checkpoint)
    dropped: list[str] = []
    plain: dict[str, Any] = to_plain(checkpoint, dropped=dropped)
    _tell_of_dropped(run, dropped)
    return plain


def _state_of_rank(run: Run) -> dict[str, Any]:
    """What an exact resume needs of this process."""
    hook = run.trainer.plugin_manager.hook.leyden_rank_state
    return {
        "fit": run.trainer.fit_loop.state_dict(),
        "gradients": run.step.state_dict() if run.step is not None else {},
        "plugins": dict(ChainMap(*hook(trainer=run.trainer))),
        "callback_metrics": {k: v for k, v in run.metrics.callback_metrics.items() if isinstance(v, Tensor)},
    }


def _add_hparams(checkpoint: dict[str, Any], owner: HyperparametersMixin) -> None:
    if owner.hparams:
        checkpoint[owner.CHECKPOINT_HYPER_PARAMS_NAME] = owner._hparams_name
        checkpoint[owner.CHECKPOINT_HYPER_PARAMS_KEY] = dict(owner.hparams)


def _tell_of_dropped(run: Run, dropped: list[str]) -> None:
    """Say once per key what could not be saved; hyperparameters were named when the run began."""
    news = [path for path in dropped if "hyper_parameters." not in path and not _is_told(run, path)]
    if news:
        rank_zero_warn(f"Left out of the checkpoint, since loading it would mean running code: {', '.join(news)}.")


def warn_of_hparams(run: Run) -> None:
    """Name, at the start of a run, the hyperparameters that checkpoints will not hold."""
    for owner in (run.module, run.datamodule):
        dropped: list[str] = []
        to_plain(dict(owner.hparams) if owner is not None else {}, dropped=dropped)
        if dropped and not _is_told(run, id(owner)):
            names = ", ".join(dropped)
            rank_zero_warn(
                f"Hyperparameters of {type(owner).__name__} that are no plain data are not saved: {names}. "
                f"Pass them when loading, load_from_checkpoint(path, {dropped[0].split('.')[0]}=...), and leave them "
                "out with save_hyperparameters(ignore=[...])."
            )


def warn_of_lost_parts(run: Run) -> None:
    """Name, at the start of a run, the module's parts whose state a plugin would keep that is not there."""
    names = {type(part): name for name, part in run.module.named_modules()}
    for cls, name in names.items():
        try:
            run.trainer.plugin_manager.component_for("record", cls)
        except UnknownComponentError as error:
            if not _is_told(run, str(error)):
                rank_zero_warn(
                    f"What the module's {name!r}, a {cls.__name__}, accumulates will not be in checkpoints, so that a "
                    f"resumed run starts it anew. {error}"
                )


def _is_told(run: Run, of: str | int) -> bool:
    """Whether this was asked before: what can't be saved is told once for each Trainer."""
    known = of in run.told
    run.told.add(of)
    return known


def _plugins(run: Run) -> list[list[str]]:
    return [[record.name, record.version] for record in run.trainer.plugin_manager.active]


# -- restoring ----------------------------------------------------------------------------------------------


def restore_module(run: Run, checkpoint: dict[str, Any]) -> None:
    """Put back weights and data-module and callback states; before the module is moved to its device."""
    module, datamodule, callbacks = run.module, run.datamodule, run.trainer.callbacks
    run.hooks.on_load_checkpoint(checkpoint)
    run.strategy.load_module_state_dict(module, checkpoint["state_dict"], strict=module.strict_loading)
    if datamodule is not None and type(datamodule).__qualname__ in checkpoint:
        datamodule.load_state_dict(checkpoint[type(datamodule).__qualname__])
    states = checkpoint.get("callbacks") or {}
    for callback in callbacks:
        if callback.state_key in states:
            callback.load_state_dict(states[callback.state_key])
    keys = {callback.state_key for callback in callbacks}
    if run.is_fit and (unused := [key for key in states if key not in keys]):
        rank_zero_warn(f"The checkpoint holds the state of callbacks that this Trainer has not: {', '.join(unused)}.")


def restore_training(run: Run, checkpoint: dict[str, Any]) -> None:
    """Put back optimizers, schedulers, counters and random states; after optimizers are made.

    Raises:
        MisconfigurationException: The checkpoint has weights only, belongs to other optimizers, is another version's,
            or is another framework's that no plugin knows.
    """
    if "optimizer_states" not in checkpoint:
        raise MisconfigurationException(
            "Training can't be resumed from a checkpoint of weights alone (save_weights_only=True); load its weights "
            "with load_from_checkpoint and start a new fit."
        )
    optimizers, schedulers, strategy = run.optimizers, run.lr_schedulers, run.strategy
    states, scheduler_states = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    if len(states) != len(optimizers) or len(scheduler_states) != len(schedulers):
        raise MisconfigurationException(
            f"The checkpoint has {len(states)} optimizers and {len(scheduler_states)} schedulers, configure_optimizers "
            f"returned {len(optimizers)} and {len(schedulers)}."
        )
    for optimizer, state in zip(optimizers, states, strict=True):
        strategy.load_optimizer_state_dict(optimizer, state)
    for scheduler, state in zip(schedulers, scheduler_states, strict=True):
        scheduler.load_state_dict(state)
    if (state := checkpoint.get(type(strategy.precision).__qualname__)) is not None:
        strategy.precision.load_state_dict(state)
    if (own := checkpoint.get(OWN_KEY)) is not None:
        _restore_fit(run, own)
    else:
        _restore_fit_of_another_framework(run, checkpoint)


def _restore_fit(run: Run, own: dict[str, Any]) -> None:
    if own["version"] != OWN_VERSION:
        raise MisconfigurationException(
            f"Training can't be resumed from this checkpoint: it has version {own['version']} of what Leyden keeps of "
            f"a fit, and this Leyden reads version {OWN_VERSION}. Resume with the Leyden that wrote it, or load its "
            "weights with load_from_checkpoint and start a new fit."
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
            f"The checkpoint is from a run of {len(ranks)} processes, and there are {world}: the run goes on after "
            f"batch {progress.batch_idx} of epoch {progress.epoch} with random states of its own, so it is not exact."
        )
    run.metrics.restore_callback_metrics(own["callback_metrics"])


def _restore_fit_of_another_framework(run: Run, checkpoint: dict[str, Any]) -> None:
    manager = run.trainer.plugin_manager
    found = manager.hook.leyden_read_progress(trainer=run.trainer, checkpoint=checkpoint)
    if found is None:
        known = bool(manager.hook.leyden_read_progress.get_hookimpls())
        advice = "" if known else f" (for Lightning's: {manager.advice('progress')})"
        raise MisconfigurationException(
            "Training can't be resumed from this checkpoint: it was not written by Leyden, and no installed plugin "
            f"knows how far its fit had come{advice}. Load its weights with load_from_checkpoint and start a new fit."
        )
    run.loop.load_state_dict({"progress": found})
    rank_zero_info(
        "The checkpoint was not written by Leyden: it holds no random states, so the resumed run is not exact."
    )


def _tell_of_plugins(run: Run, saved: list[list[str]]) -> None:
    now = _plugins(run)
    if now != saved:
        gone = [f"{name} {version}" for name, version in saved if [name, version] not in now]
        new = [f"{name} {version}" for name, version in now if [name, version] not in saved]
        rank_zero_info(
            f"The plugins differ from those of the checkpoint: {', '.join(gone) or 'none'} missing, "
            f"{', '.join(new) or 'none'} more."
        )

"""What a run's checkpoint holds: making it, and putting a run back where it was.

The keys are those of Lightning; the key ``leyden`` holds what an exact resume needs beside them: the place in the
loop, random states, and open metric accumulations. Where the fit of another framework stood is for a plugin to say.
"""

from __future__ import annotations

from collections import ChainMap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leyden.plugin_system.catalogue import UnknownComponentError
from leyden.utilities.batch import move_data_to_device
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.plain import to_plain
from leyden.utilities.rank_zero import rank_zero_info, rank_zero_warn

if TYPE_CHECKING:
    from leyden.mixins.hparams import HyperparametersMixin
    from leyden.trainer import Trainer

OWN_KEY = "leyden"
OWN_VERSION = 3  # of what is under it


def dump(trainer: Trainer, weights_only: bool = False) -> dict[str, Any]:
    """The checkpoint of a Trainer as plain data and tensors.

    Args:
        trainer: The run.
        weights_only: Leave out what only training needs: optimizers, schedulers, callbacks, random states.
    """
    module, datamodule = trainer.lightning_module, trainer.datamodule
    checkpoint: dict[str, Any] = {
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "state_dict": trainer.strategy.module_state_dict(module),
    }
    if not weights_only:
        checkpoint["callbacks"] = _callback_states(trainer)
        checkpoint["optimizer_states"] = [trainer.strategy.optimizer_state_dict(o) for o in trainer.optimizers]
        checkpoint["lr_schedulers"] = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
        if state := trainer.precision_plugin.state_dict():
            checkpoint[type(trainer.precision_plugin).__qualname__] = state
        checkpoint[OWN_KEY] = {"version": OWN_VERSION, "plugins": _plugins(trainer), "ranks": _states_of_ranks(trainer)}
    _add_hparams(checkpoint, module)
    if datamodule is not None:
        _add_hparams(checkpoint, datamodule)
        if state := datamodule.state_dict():
            checkpoint[type(datamodule).__qualname__] = state
    if weights_only:
        trainer.plugin_manager.hook.on_save_checkpoint(trainer=trainer, pl_module=module, checkpoint=checkpoint)
        module.on_save_checkpoint(checkpoint)
    elif trainer.hooks.on_save_checkpoint is not None:
        trainer.hooks.on_save_checkpoint(checkpoint)
    dropped: list[str] = []
    plain: dict[str, Any] = to_plain(checkpoint, dropped=dropped)
    _tell_of_dropped(trainer, dropped)
    return plain


def _callback_states(trainer: Trainer) -> dict[str, Any]:
    return {callback.state_key: state for callback in trainer.callbacks if (state := callback.state_dict())}


def _add_hparams(checkpoint: dict[str, Any], owner: HyperparametersMixin) -> None:
    if owner.hparams:
        checkpoint[owner.CHECKPOINT_HYPER_PARAMS_NAME] = owner._hparams_name
        checkpoint[owner.CHECKPOINT_HYPER_PARAMS_KEY] = dict(owner.hparams)


def _tell_of_dropped(trainer: Trainer, dropped: list[str]) -> None:
    """Say once per key what could not be saved; hyperparameters were named when the run began."""
    news = [path for path in dropped if "hyper_parameters." not in path and not _is_told(trainer, path)]
    if news:
        rank_zero_warn(f"Left out of the checkpoint, since loading it would mean running code: {', '.join(news)}.")


def warn_of_hparams(trainer: Trainer) -> None:
    """Name, at the start of a run, the hyperparameters that checkpoints will not hold."""
    for owner in (trainer.lightning_module, trainer.datamodule):
        dropped: list[str] = []
        to_plain(dict(owner.hparams) if owner is not None else {}, dropped=dropped)
        if dropped and not _is_told(trainer, id(owner)):
            names = ", ".join(dropped)
            rank_zero_warn(
                f"Hyperparameters of {type(owner).__name__} that are no plain data are not saved: {names}. "
                f"Pass them when loading, load_from_checkpoint(path, {dropped[0].split('.')[0]}=...), and leave them "
                "out with save_hyperparameters(ignore=[...])."
            )


def warn_of_lost_parts(trainer: Trainer) -> None:
    """Name, at the start of a run, the module's parts whose state a plugin would keep that is not there."""
    names = {type(part): name for name, part in trainer.lightning_module.named_modules()}
    for cls, name in names.items():
        try:
            trainer.plugin_manager.component_for("record", cls)
        except UnknownComponentError as error:
            if not _is_told(trainer, str(error)):
                rank_zero_warn(
                    f"What the module's {name!r}, a {cls.__name__}, accumulates will not be in checkpoints, so that a "
                    f"resumed run starts it anew. {error}"
                )


def _is_told(trainer: Trainer, of: str | int) -> bool:
    """Whether this was asked before: what can't be saved is told once for each Trainer."""
    told: set[str | int] = vars(trainer).setdefault("_told_of_unsaved", set())
    known = of in told
    told.add(of)
    return known


def _plugins(trainer: Trainer) -> list[list[str]]:
    return [[record.name, record.version] for record in trainer.plugin_manager.active]


def _states_of_ranks(trainer: Trainer) -> list[dict[str, Any]]:
    return trainer.strategy.all_gather_object(move_data_to_device(_own_state(trainer), torch.device("cpu")))


def _own_state(trainer: Trainer) -> dict[str, Any]:
    loop = trainer.fit_loop
    return {
        "progress": asdict(trainer.progress),
        "rng": loop.random_states.state_dict(),
        "gradients": _open_gradients(trainer),
        "validated": dict(loop.validation.seen),
        "loaded_in": [source and source.loaded_in for source in (loop.source, loop.validation.source)],
        "results": loop.results.state_dict(),
        "plugins": dict(ChainMap(*trainer.plugin_manager.hook.leyden_rank_state(trainer=trainer))),
        "callback_metrics": {k: v for k, v in trainer.callback_metrics.items() if isinstance(v, Tensor)},
    }


def _open_gradients(trainer: Trainer) -> dict[str, Any]:
    """The gradients to which the next batch adds; {} where it clears them.

    Only the user knows when that is in manual optimisation, so there all that exist are kept.
    """
    module = trainer.lightning_module
    if module.automatic_optimization and not trainer.progress.is_accumulating(trainer.accumulate_grad_batches):
        return {}
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


# -- restoring ----------------------------------------------------------------------------------------------


def restore_module(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Put back weights and data-module and callback states; before the module is moved to its device."""
    module, datamodule = trainer.lightning_module, trainer.datamodule
    if trainer.hooks.on_load_checkpoint is not None:
        trainer.hooks.on_load_checkpoint(checkpoint)
    trainer.strategy.load_module_state_dict(module, checkpoint["state_dict"], strict=module.strict_loading)
    if datamodule is not None and type(datamodule).__qualname__ in checkpoint:
        datamodule.load_state_dict(checkpoint[type(datamodule).__qualname__])
    states = checkpoint.get("callbacks") or {}
    for callback in trainer.callbacks:
        if callback.state_key in states:
            callback.load_state_dict(states[callback.state_key])
    keys = {callback.state_key for callback in trainer.callbacks}
    if trainer.state.fn == "fit" and (unused := [key for key in states if key not in keys]):
        rank_zero_warn(f"The checkpoint holds the state of callbacks that this Trainer has not: {', '.join(unused)}.")


def restore_training(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
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
    states, schedulers = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    if len(states) != len(trainer.optimizers) or len(schedulers) != len(trainer.lr_scheduler_configs):
        raise MisconfigurationException(
            f"The checkpoint has {len(states)} optimizers and {len(schedulers)} schedulers, configure_optimizers "
            f"returned {len(trainer.optimizers)} and {len(trainer.lr_scheduler_configs)}."
        )
    for optimizer, state in zip(trainer.optimizers, states, strict=True):
        trainer.strategy.load_optimizer_state_dict(optimizer, state)
    for config, state in zip(trainer.lr_scheduler_configs, schedulers, strict=True):
        config.scheduler.load_state_dict(state)
    precision = trainer.precision_plugin
    if (state := checkpoint.get(type(precision).__qualname__)) is not None:
        precision.load_state_dict(state)
    _restore_place(trainer, checkpoint)


def _restore_place(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    own = checkpoint.get(OWN_KEY)
    if own is None:
        return _restore_place_of_another_framework(trainer, checkpoint)
    if own["version"] != OWN_VERSION:
        raise MisconfigurationException(
            f"Training can't be resumed from this checkpoint: it has version {own['version']} of what Leyden keeps of "
            f"a fit, and this Leyden reads version {OWN_VERSION}. Resume with the Leyden that wrote it, or load its "
            "weights with load_from_checkpoint and start a new fit."
        )
    _tell_of_plugins(trainer, own["plugins"])
    ranks = own["ranks"]
    states = [rank["plugins"] for rank in ranks]
    trainer.plugin_manager.hook.leyden_restore_rank_state(trainer=trainer, states=states)
    if len(ranks) != trainer.world_size:
        return _restore_place_of_others(trainer, ranks)
    own = ranks[trainer.global_rank]
    trainer.progress.__dict__.update(own["progress"])
    trainer.progress.step_back_from_unfinished_batch()
    loop = trainer.fit_loop
    loop.random_states.saved = own["rng"]
    loop.validation.seen.update(own["validated"])
    for source, epoch in zip((loop.source, loop.validation.source), own["loaded_in"], strict=True):
        if source is not None:
            source.loaded_in = epoch
    for name, parameter in trainer.lightning_module.named_parameters():
        if name in own["gradients"]:
            parameter.grad = own["gradients"][name].to(parameter.device)
    loop.results.load_state_dict(own["results"])
    trainer.logging.restore_callback_metrics(own["callback_metrics"])


def _restore_place_of_another_framework(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    hook = trainer.plugin_manager.hook.leyden_read_progress
    found = hook(trainer=trainer, checkpoint=checkpoint)
    if found is None:
        known = bool(hook.get_hookimpls())
        advice = "" if known else f" (for Lightning's: {trainer.plugin_manager.advice('progress')})"
        raise MisconfigurationException(
            "Training can't be resumed from this checkpoint: it was not written by Leyden, and no installed plugin "
            f"knows how far its fit had come{advice}. Load its weights with load_from_checkpoint and start a new fit."
        )
    trainer.progress.__dict__.update(asdict(type(trainer.progress)(**found)))
    trainer.progress.step_back_from_unfinished_batch()
    rank_zero_info(
        "The checkpoint was not written by Leyden: it holds no random states, so the resumed run is not exact."
    )


def _restore_place_of_others(trainer: Trainer, ranks: list[dict[str, Any]]) -> None:
    """Go on from a run of another number of processes: after as many samples as it had seen of the epoch."""
    trainer.progress.__dict__.update(ranks[0]["progress"])
    trainer.progress.step_back_from_unfinished_batch()
    progress, world = trainer.progress, trainer.world_size
    seen = progress.batch_idx * len(ranks)
    progress.batch_idx = seen // world
    rank_zero_info(
        f"The checkpoint is from a run of {len(ranks)} processes, and there are {world}: the run goes on after batch "
        f"{progress.batch_idx} of epoch {progress.epoch} with random states of its own, so it is not exact."
    )
    trainer.logging.restore_callback_metrics(ranks[0]["callback_metrics"])


def _tell_of_plugins(trainer: Trainer, saved: list[list[str]]) -> None:
    now = _plugins(trainer)
    if now != saved:
        gone = [f"{name} {version}" for name, version in saved if [name, version] not in now]
        new = [f"{name} {version}" for name, version in now if [name, version] not in saved]
        rank_zero_info(
            f"The plugins differ from those of the checkpoint: {', '.join(gone) or 'none'} missing, "
            f"{', '.join(new) or 'none'} more."
        )

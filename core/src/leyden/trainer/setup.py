"""The small steps with which a run begins: device options, the model's callbacks, data, loggers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from leyden.callback import Callback
from leyden.interfaces.logger import agree_on_versions
from leyden.plugin_system.manager import PluginManager
from leyden.plugin_system.table import Member, run_manager
from leyden.trainer.parts import order_callbacks
from leyden.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer


def set_device_options(trainer: Trainer) -> None:
    """Apply ``deterministic`` and ``benchmark``."""
    if trainer.deterministic is not None:
        torch.use_deterministic_algorithms(bool(trainer.deterministic), warn_only=trainer.deterministic == "warn")
    trainer.accelerator.set_options(deterministic=bool(trainer.deterministic), benchmark=trainer.benchmark)


def attach_module_callbacks(trainer: Trainer) -> None:
    """Add the model's own callbacks; they replace the Trainer's of the same type."""
    own: Any = trainer.lightning_module.configure_callbacks()
    own = [own] if isinstance(own, Callback) else own or ()
    if not isinstance(own, (list, tuple)) or not all(isinstance(callback, Callback) for callback in own):
        raise MisconfigurationException(f"configure_callbacks returned {own!r}; return a callback or a list of them.")
    types = {type(callback) for callback in own}
    kept = [callback for callback in trainer.callbacks if type(callback) not in types]
    trainer.callbacks = order_callbacks([*kept, *own])


def call_setup(trainer: Trainer, stage: str) -> None:
    """Call ``setup``; callbacks that it adds to ``trainer.callbacks`` are set up too and take part in the run."""
    known, hook = list(trainer.callbacks), trainer.hooks.setup
    while True:
        if hook is not None:
            hook(stage)
        if trainer.callbacks == known:
            return
        added = [callback for callback in trainer.callbacks if callback not in known]
        trainer.callbacks = order_callbacks(trainer.callbacks)
        known = list(trainer.callbacks)
        trainer.compile_hooks(trainer.run_plugins)  # not the installed ones: some may have joined for this run
        members = [Member(callback, Callback) for callback in added]
        hook = trainer.hook_table(run_manager(PluginManager(), members)).setup


def prepare_data(trainer: Trainer) -> None:
    """Call ``prepare_data`` in one process of each node, or in one of all."""
    strategy = trainer.strategy
    for owner in (trainer.datamodule, trainer.lightning_module):
        if owner is None:
            continue
        per_node = getattr(owner, "prepare_data_per_node", True)
        if strategy.local_rank == 0 and (per_node or strategy.node_rank == 0):
            owner.prepare_data()
    strategy.barrier("prepare_data")


def settle_log_directories(trainer: Trainer) -> None:
    """Have every logger choose its version before any writes, so that those with free choice take the same one.

    Rank 0 chooses for all.
    """
    strategy = trainer.strategy
    agree_on_versions(trainer.loggers, strategy)
    trainer.agreed_log_dir = None
    trainer.agreed_log_dir = strategy.broadcast(trainer.log_dir)
    directories = [(type(logger), logger.version, logger.log_dir) for logger in trainer.loggers]
    for kind, _, directory in directories:
        if directory is not None and sum(other[0] is kind and other[2] == directory for other in directories) > 1:
            raise MisconfigurationException(
                f"Two loggers of type {kind.__name__} write to {directory!r}; give each its own name or version."
            )


def log_hyperparameters(trainer: Trainer) -> None:
    """Give the loggers the hyperparameters of module and data module, and the model's graph."""
    owners = [owner for owner in (trainer.lightning_module, trainer.datamodule) if owner is not None]
    logged = [dict(owner.hparams_initial) for owner in owners if owner._log_hyperparams]
    merged: dict[str, Any] = {}
    for hparams in logged:
        for name, value in hparams.items():
            if name in merged and merged[name] is not value and merged[name] != value:
                raise MisconfigurationException(
                    f"The hyperparameter {name!r} is {merged[name]!r} in the module and {value!r} in the data "
                    "module; rename one, or save one of the two with logger=False."
                )
            merged[name] = value
    for logger in trainer.loggers:
        if logged:
            logger.log_hyperparams(merged)
        logger.log_graph(trainer.lightning_module)
        logger.save()

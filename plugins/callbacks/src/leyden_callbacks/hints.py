"""Hints at what may be a mistake, parts left in evaluation mode, steps that nobody logs, shuffling.

Each is given once in a run; a Trainer with ``barebones=True`` gives none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, RandomSampler

from leyden.utilities.rank_zero import rank_zero_warn
from leyden.utilities.warnings import PossibleUserWarning

if TYPE_CHECKING:
    from leyden.module import LightningModule
    from leyden.trainer import Trainer


def of_training(trainer: Trainer, module: LightningModule) -> None:
    """At the start of a fit, whose validation loaders are known."""
    if trainer.barebones:
        return
    _warn_of_evaluation_mode(module)
    _warn_of_shuffling(trainer.fit_loop.validation)


def of_first_epoch(trainer: Trainer) -> None:
    """When the first epoch ends: whether what it logged by steps has reached the loggers."""
    every, batches = trainer.log_every_n_steps, trainer.fit_loop.max_batches
    if trainer.current_epoch or not trainer.loggers or trainer.fast_dev_run or trainer.should_stop or batches >= every:
        return
    options = [record.options for record in trainer.fit_loop.results.records.values()]
    if any(each.on_step and each.logger for each in options):
        rank_zero_warn(
            f"An epoch has {batches} batches and log_every_n_steps={every}, so that its steps are logged seldom or "
            "never; write a smaller number to see them.",
            PossibleUserWarning,
        )


def of_evaluation(trainer: Trainer) -> None:
    """At the start of a ``validate``, ``test`` or ``predict``; not of the validation of a fit."""
    if trainer.state.fn != "fit" and not trainer.barebones:
        _warn_of_shuffling(trainer.run.loop)


def _warn_of_evaluation_mode(module: LightningModule) -> None:
    names = [name for name, part in module.named_modules() if not part.training]
    if names:
        rank_zero_warn(
            f"{len(names)} module(s) are in evaluation mode at the start of training, "
            f"{names[0] or 'the whole model'!r} first; call .train() if that is not meant.",
            PossibleUserWarning,
        )


def _warn_of_shuffling(loop: Any) -> None:
    """Of the loaders of one loop; a sampler of the user's own is the user's choice."""
    loaders: Iterable[Any] = () if loop.loader is None else loop.loader.flattened
    if any(isinstance(loader, DataLoader) and type(loader.sampler) is RandomSampler for loader in loaders):
        rank_zero_warn(
            f"{loop.source} gave a DataLoader with shuffling enabled: each pass takes its batches in another order, "
            "and a limited one takes other samples; write shuffle=False.",
            PossibleUserWarning,
        )

"""Warnings of possible mistakes: parts left in evaluation mode, steps that are never logged, shuffled evaluation data.

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
    """Warn of modules in evaluation mode and shuffled validation data; called when training starts."""
    if trainer.barebones:
        return
    _warn_of_evaluation_mode(module)
    _warn_of_shuffling(trainer.fit_loop.validation)


def of_first_epoch(trainer: Trainer) -> None:
    """Warn if values logged by step did not reach a logger in the first epoch; called when it ends."""
    every, batches = trainer.log_every_n_steps, trainer.fit_loop.max_batches
    if trainer.current_epoch or not trainer.loggers or trainer.fast_dev_run or trainer.should_stop or batches >= every:
        return
    options = [record.options for record in trainer.fit_loop.results.records.values()]
    if any(each.on_step and each.logger for each in options):
        rank_zero_warn(
            f"An epoch has {batches} batches, fewer than log_every_n_steps={every}: some epochs log no step at all; "
            "set a smaller log_every_n_steps.",
            PossibleUserWarning,
        )


def of_evaluation(trainer: Trainer) -> None:
    """Warn of shuffled data at the start of ``validate``, ``test`` or ``predict``, not of validation within a fit."""
    loop = trainer.passes.get(trainer.state.fn)  # type: ignore[arg-type]
    if loop is not None and not trainer.barebones:
        _warn_of_shuffling(loop)


def _warn_of_evaluation_mode(module: LightningModule) -> None:
    names = [name for name, part in module.named_modules() if not part.training]
    if names:
        rank_zero_warn(
            f"{len(names)} module(s) are in evaluation mode at the start of training, "
            f"{names[0] or 'the whole model'!r} first; call .train() if that is not intended.",
            PossibleUserWarning,
        )


def _warn_of_shuffling(loop: Any) -> None:
    """Warn if a loader of ``loop`` shuffles by PyTorch's default sampler; a user's own sampler is taken as intended."""
    loaders: Iterable[Any] = () if loop.loader is None else loop.loader.flattened
    if any(isinstance(loader, DataLoader) and type(loader.sampler) is RandomSampler for loader in loaders):
        rank_zero_warn(
            f"{loop.source} gave a DataLoader with shuffling enabled: each pass sees the batches in another order, "
            "and with a limit on batches it sees other samples; write shuffle=False.",
            PossibleUserWarning,
        )

"""Warnings of possible mistakes: evaluation mode, what checkpoints will not hold, unlogged steps, waiting, shuffling.

Each is given once in a run; a Trainer with ``barebones=True`` gives none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from torch.utils.data import DataLoader, RandomSampler

from leyden.plugins import UnknownComponentError
from leyden.utilities import CombinedLoader
from leyden.utilities.rank_zero import rank_zero_warn
from leyden.utilities.warnings import PossibleUserWarning

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

T = TypeVar("T")
WATCHED = 5.0  # seconds at the start of an epoch for which waiting is measured


def of_training(trainer: Trainer, module: LightningModule) -> None:
    """Warn of modules in evaluation mode and shuffled validation data; called when training starts."""
    if trainer.barebones:
        return
    _warn_of_evaluation_mode(module)
    _warn_of_lost_parts(trainer, module)
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


def of_waiting(trainer: Trainer, batches: Iterable[T]) -> Iterable[T] | None:
    """Measure in the first epoch how long training waits for batches, and warn if that is most of the time.

    Args:
        trainer: The Trainer, in a fit.
        batches: The batches of the epoch that starts.

    Returns:
        The same batches, measured; None if it is not the first epoch, or if workers could not help.
    """
    if trainer.barebones or trainer.current_epoch or not _has_idle_processors(trainer.train_dataloader):
        return None
    return _watched(batches, trainer.fit_loop.source)


def of_evaluation(trainer: Trainer) -> None:
    """Warn of shuffled data at the start of ``validate``, ``test`` or ``predict``, not of validation within a fit."""
    if trainer.state.fn != "fit" and not trainer.barebones:
        _warn_of_shuffling(trainer.run.loop)


def _has_idle_processors(loaders: Any) -> bool:
    """Return whether one of the loaders has no workers although there is more than one processor."""
    flat = CombinedLoader(loaders).flattened
    return (os.cpu_count() or 1) > 1 and any(isinstance(x, DataLoader) and x.num_workers == 0 for x in flat)


def _watched(batches: Iterable[T], source: object) -> Iterator[T]:
    """Yield the batches, and warn if most of the time is spent waiting for them; measured at the start only."""
    iterator = iter(batches)
    yield from islice(iterator, 1)  # the first batch is not measured, since loading it may open files
    waited, began = 0.0, time.perf_counter()
    while (asked := time.perf_counter()) < began + WATCHED:
        batch = next(iterator, None)
        if batch is None:
            return
        waited += time.perf_counter() - asked
        yield batch
    share = waited / (asked - began)
    if share > 0.5:
        rank_zero_warn(
            f"{source} gave a DataLoader that does not have many workers (num_workers=0), and training waits "
            f"{share:.0%} of its time for batches; write num_workers=2 or more to load them during the steps.",
            PossibleUserWarning,
        )
    yield from iterator


def _warn_of_evaluation_mode(module: LightningModule) -> None:
    names = [name for name, part in module.named_modules() if not part.training]
    if names:
        rank_zero_warn(
            f"{len(names)} module(s) are in evaluation mode at the start of training, "
            f"{names[0] or 'the whole model'!r} first; call .train() if that is not intended.",
            PossibleUserWarning,
        )


def _warn_of_lost_parts(trainer: Trainer, module: LightningModule) -> None:
    """Of parts whose state a plugin would keep that is not there, metrics for example."""
    for cls, name in {type(part): name for name, part in module.named_modules()}.items():
        try:
            trainer.plugin_manager.component_for("record", cls)
        except UnknownComponentError as error:
            rank_zero_warn(
                f"What the module's {name!r}, a {cls.__name__}, accumulates will not be in checkpoints, so that a "
                f"resumed run starts it anew. {error}",
                PossibleUserWarning,
            )
            return  # the same plugin would keep those of other classes


def _warn_of_shuffling(loop: Any) -> None:
    """Warn if a loader of ``loop`` shuffles by PyTorch's default sampler; a user's own sampler is taken as intended."""
    loaders: Iterable[Any] = () if loop.loader is None else loop.loader.flattened
    if any(isinstance(loader, DataLoader) and type(loader.sampler) is RandomSampler for loader in loaders):
        rank_zero_warn(
            f"{loop.source} gave a DataLoader with shuffling enabled: each pass sees the batches in another order, "
            "and with a limit on batches it sees other samples; write shuffle=False.",
            PossibleUserWarning,
        )

"""Loaders: where a stage's come from, and the samplers that they get before the first batch."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from leyden.data.combined import INFINITE, CombinedLoader, Mode, length_of
from leyden.data.iteration import Iteration
from leyden.utilities import MisconfigurationException, rank_zero_warn
from leyden.utilities.states import RunningStage

if TYPE_CHECKING:
    from leyden.trainer import Trainer


@dataclass
class DataSource:
    """Who gives the loaders of a stage.

    Args:
        owner: A datamodule or module with the hook, or None.
        hook: "train_dataloader", "val_dataloader", …
        given: The loaders that the user passed to ``fit`` and the like; if there are any, the owner is not asked.
        loaded_in: The epoch in which they were last due; None before the first time.
    """

    owner: Any
    hook: str
    given: Any = None
    loaded_in: int | None = None

    def is_due(self, trainer: Trainer) -> bool:
        """Whether other loaders are due: the first time, and every ``reload_dataloaders_every_n_epochs``."""
        every = trainer.reload_dataloaders_every_n_epochs
        return self.loaded_in is None or (every > 0 and trainer.current_epoch - self.loaded_in >= every)

    def __str__(self) -> str:
        asked = f"{type(self.owner).__name__}.{self.hook}()"
        return f"the {self.hook}s that were passed" if self.given is not None else asked


def load(trainer: Trainer, source: DataSource, stage: RunningStage, mode: Mode) -> CombinedLoader:
    """Ask for a stage's loaders, refuse what is no loader, apply ``overfit_batches`` and samplers, take the lengths."""
    loaders = source.given if source.given is not None else getattr(source.owner, source.hook)()
    trainer.strategy.barrier(source.hook)
    combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, mode)
    for loader in combined.flattened:
        refuse_if_not_iterable(loader, source)
    combined.flattened = [_prepared(trainer, loader, stage) for loader in combined.flattened]
    combined.iteration = trainer.plugin_manager.hook.leyden_iteration() or Iteration
    take_lengths(trainer, combined, stage)
    if stage == RunningStage.TRAINING and combined.flattened and combined.total() == 0:
        warn_of_no_batches(source)
    elif combined.mode == "max_size_cycle" and 0 in combined.sizes():
        raise ValueError(f"{source} gave a loader of no batches among others, so it can't be cycled beside them.")
    if source.is_due(trainer):  # else a resumed run loads again what was loaded in an earlier epoch
        source.loaded_in = trainer.current_epoch
    return combined


def take_lengths(trainer: Trainer, combined: CombinedLoader, stage: RunningStage) -> None:
    """Limit each loader by ``limit_*_batches`` of its length, which may be another in each epoch."""
    name = f"limit_{stage.dataloader_prefix}_batches"
    limit = getattr(trainer, name)
    combined.limits = [_limit(length_of(loader), limit, name) for loader in combined.flattened]


def warn_of_no_batches(source: DataSource) -> None:
    """Say that loaders are empty; in evaluation this means those of all processes."""
    rank_zero_warn(f"There is nothing to do: {source} gave loaders of no batches.")


def refuse_if_not_iterable(loader: Any, source: DataSource) -> None:
    """Raise a TypeError that says where a loader came from that can't be iterated."""
    if not isinstance(loader, Iterable) and not callable(getattr(type(loader), "__getitem__", None)):
        what = f"{source} gave {loader!r} of type {type(loader).__name__}"
        raise TypeError(f"{what}, which can't be iterated; give a DataLoader or another iterable of batches.")


def _prepared(trainer: Trainer, loader: Any, stage: RunningStage) -> Any:
    """A loader as a run takes it: in its order, of this process's part of the data, as plugins want it."""
    training = stage == RunningStage.TRAINING
    overfits = trainer.overfit_batches > 0 and stage != RunningStage.TESTING
    if overfits and isinstance(loader, DataLoader) and isinstance(loader.sampler, RandomSampler):
        rank_zero_warn(f"overfit_batches: shuffling of the {stage.dataloader_prefix} data is turned off.")
        loader = rebuild(loader, SequentialSampler(loader.dataset))  # type: ignore[arg-type]
    if stage == RunningStage.PREDICTING:
        loader = keeping_last(loader)
    if trainer.use_distributed_sampler:
        loader = trainer.strategy.divide(loader, training=training)
    return trainer.plugin_manager.hook.leyden_prepare_loader(owner=trainer, loader=loader, training=training)


def _limit(length: int | float, limit: int | float, name: str) -> int | float:
    """Batches to take, from a ``limit_*_batches`` that counts them (int) or is a fraction (float)."""
    if isinstance(limit, int) or limit == 0:
        return min(length, limit)
    if length == INFINITE and limit != 1.0:
        raise MisconfigurationException(f"{name}={limit} is a fraction, but the loader has no length; write a number.")
    count = length if limit == 1.0 else int(length * limit)
    if length > 0 and count == 0:
        raise MisconfigurationException(
            f"{name}={limit} of {length} batches is none at all; write at least {1 / length:.3g}, or a whole number."
        )
    return count


def rebuild(loader: DataLoader[Any], sampler: Any) -> DataLoader[Any]:
    """A DataLoader like ``loader`` with another sampler; the user's own object stays as it is.

    It is a shallow copy, so that a subclass's constructor, whatever it takes, is not called again.

    Raises:
        MisconfigurationException: The user's own batch sampler has no ``sampler`` that could be replaced.
    """
    batch_sampler = loader.batch_sampler
    if type(batch_sampler) is BatchSampler:
        batch_sampler = BatchSampler(sampler, batch_sampler.batch_size, batch_sampler.drop_last)
    elif batch_sampler is not None:
        if not hasattr(batch_sampler, "sampler"):
            raise MisconfigurationException(
                f"The {type(loader).__name__} needs a {type(sampler).__name__}, but its batch sampler "
                f"{type(batch_sampler).__name__} has no attribute 'sampler'; put one in yourself and pass "
                "Trainer(use_distributed_sampler=False)."
            )
        batch_sampler = copy.copy(batch_sampler)
        batch_sampler.sampler = sampler
    return copy_with(loader, sampler=sampler, batch_sampler=batch_sampler)


def copy_with(loader: DataLoader[Any], **attributes: Any) -> DataLoader[Any]:
    """A shallow copy of a loader with other attributes, also those that a DataLoader does not let anyone change."""
    copied = copy.copy(loader)
    for name, value in {**attributes, "_iterator": None}.items():
        object.__setattr__(copied, name, value)  # DataLoader refuses changes of these, but this one is ours alone
    return copied


def keeping_last(loader: Any) -> Any:
    """A loader that does not drop an incomplete last batch: every sample is to be predicted."""
    if isinstance(loader, DataLoader) and type(batches := loader.batch_sampler) is BatchSampler and batches.drop_last:
        return copy_with(loader, batch_sampler=BatchSampler(batches.sampler, batches.batch_size, False))
    return loader


def loader_parts(loader: Any) -> list[Any]:
    """The loader, its samplers and its dataset, each once."""
    sampler, batch_sampler, dataset = (getattr(loader, name, None) for name in ("sampler", "batch_sampler", "dataset"))
    parts = (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None), dataset)
    return list({id(part): part for part in parts if part is not None}.values())


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell a loader, its samplers and its dataset which epoch it is, those that have a method ``set_epoch``.

    Args:
        loader: A DataLoader, or another iterable.
        epoch: The epoch, from 0.
    """
    for part in loader_parts(loader):
        tell = getattr(part, "set_epoch", None)
        if callable(tell):
            tell(epoch)

"""Where a stage's loaders come from, and what is done to them before the first batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from leyden.data.combined import INFINITE, CombinedLoader, Mode, length_of
from leyden.data.samplers import keeping_last, rebuild
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_warn
from leyden.utilities.states import RunningStage

if TYPE_CHECKING:
    from leyden.trainer import Trainer


@dataclass
class DataSource:
    """Who gives the loaders of a stage.

    Args:
        owner: A datamodule or module with the hook, or None.
        hook: "train_dataloader", "val_dataloader", …
        given: The loaders that the user passed to ``fit`` and the like, before which the owner is not asked.
        loaded_in: The epoch in which they were last due; None before the first time.
    """

    owner: Any
    hook: str
    given: Any = None
    loaded_in: int | None = None

    def request(self) -> Any:
        """The loaders, from what was passed or from the hook."""
        return self.given if self.given is not None else getattr(self.owner, self.hook)()

    def is_due(self, trainer: Trainer) -> bool:
        """Whether other loaders are due: the first time, and every ``reload_dataloaders_every_n_epochs``."""
        every = trainer.reload_dataloaders_every_n_epochs
        return self.loaded_in is None or (every > 0 and trainer.current_epoch - self.loaded_in >= every)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know to load at the same epochs."""
        return {"loaded_in": self.loaded_in}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        self.loaded_in = state["loaded_in"]

    def __str__(self) -> str:
        return (
            f"the {self.hook}s that were passed"
            if self.given is not None
            else f"{type(self.owner).__name__}.{self.hook}()"
        )


def load(trainer: Trainer, source: DataSource, stage: RunningStage, mode: Mode) -> CombinedLoader:
    """Ask for a stage's loaders, refuse what is no loader, apply ``overfit_batches``, samplers and limits."""
    loaders = source.request()
    trainer.strategy.barrier(source.hook)
    combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, mode)
    for loader in combined.flattened:
        refuse_if_not_iterable(loader, source)
    combined.flattened = [_prepared(trainer, loader, stage) for loader in combined.flattened]
    limit = getattr(trainer, f"limit_{stage.dataloader_prefix}_batches")
    combined.limits = [_limit(length_of(loader), limit, stage) for loader in combined.flattened]
    if stage == RunningStage.TRAINING and combined.flattened and combined.total() == 0 and limit != 0:
        warn_of_no_batches(source)
    elif combined.mode == "max_size_cycle" and 0 in combined.sizes():
        raise ValueError(f"{source} gave a loader of no batches among others, so it can't be cycled beside them.")
    if source.is_due(trainer):  # else a resumed run loads again what was loaded in an earlier epoch
        source.loaded_in = trainer.current_epoch
    return combined


def warn_of_no_batches(source: DataSource) -> None:
    """Say that loaders are empty; in evaluation, those of all processes."""
    rank_zero_warn(f"There is nothing to do: {source} gave loaders of no batches.")


def refuse_if_not_iterable(loader: Any, source: DataSource) -> None:
    """Raise a TypeError that says where a loader came from that can't be iterated."""
    try:
        iterable = isinstance(loader, Iterable) or callable(getattr(type(loader), "__getitem__", None))
    except TypeError:
        iterable = False
    if not iterable:
        raise TypeError(
            f"{source} gave {loader!r} of type {type(loader).__name__}, which can't be iterated; "
            "give a DataLoader or another iterable of batches."
        )


def _prepared(trainer: Trainer, loader: Any, stage: RunningStage) -> Any:
    """A loader as a run takes it: in its order, of this process's part of the data, as plugins want it."""
    training = stage == RunningStage.TRAINING
    if trainer.overfit_batches > 0 and stage != RunningStage.TESTING:
        loader = _in_order(loader, stage)
    if stage == RunningStage.PREDICTING:
        loader = keeping_last(loader)
    if trainer.use_distributed_sampler:
        loader = trainer.strategy.divide(loader, training=training)
    return trainer.plugin_manager.hook.leyden_prepare_loader(owner=trainer, loader=loader, training=training)


def _in_order(loader: Any, stage: RunningStage) -> Any:
    """``overfit_batches`` takes the same batches every epoch: no shuffling of the training data."""
    if not isinstance(loader, DataLoader) or not isinstance(loader.sampler, RandomSampler):
        return loader
    rank_zero_warn(f"overfit_batches: shuffling of the {stage.dataloader_prefix} data is turned off.")
    return rebuild(loader, SequentialSampler(loader.dataset))  # type: ignore[arg-type]


def _limit(length: int | float, limit: int | float, stage: RunningStage) -> int | float:
    """Batches to take, from a ``limit_*_batches`` that counts them (int) or is a fraction (float)."""
    name = f"limit_{stage.dataloader_prefix}_batches"
    if isinstance(limit, int) or limit == 0:
        return min(length, limit)
    if limit == 1.0:
        return length
    if length == INFINITE:
        raise MisconfigurationException(f"{name}={limit} is a fraction, but the loader has no length; write a number.")
    if length > 0 and int(length * limit) == 0:
        raise MisconfigurationException(
            f"{name}={limit} of {length} batches is none at all; write at least {1 / length:.3g}, or a whole number."
        )
    return int(length * limit)

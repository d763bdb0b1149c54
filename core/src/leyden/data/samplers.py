"""Puts other samplers into a copy of the user's DataLoader, which is itself unchanged."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from leyden.utilities.exceptions import MisconfigurationException


def rebuild(loader: DataLoader[Any], sampler: Any) -> DataLoader[Any]:
    """Return a copy of ``loader`` with another sampler; the user's object is unchanged.

    It is a shallow copy, so the constructor of a subclass, whose arguments are unknown, is not called.

    Raises:
        MisconfigurationException: The user's batch sampler has no attribute ``sampler`` to replace.
    """
    batch_sampler = loader.batch_sampler
    if type(batch_sampler) is BatchSampler:
        batch_sampler = BatchSampler(sampler, batch_sampler.batch_size, batch_sampler.drop_last)
    elif batch_sampler is not None:
        if not hasattr(batch_sampler, "sampler"):
            raise MisconfigurationException(
                f"The {type(loader).__name__} needs a {type(sampler).__name__}, but its batch sampler "
                f"{type(batch_sampler).__name__} has no attribute 'sampler' to replace. Use the sampler yourself and "
                "pass Trainer(use_distributed_sampler=False)."
            )
        batch_sampler = copy.copy(batch_sampler)
        batch_sampler.sampler = sampler
    return copy_with(loader, sampler=sampler, batch_sampler=batch_sampler)


def copy_with(loader: DataLoader[Any], **attributes: Any) -> DataLoader[Any]:
    """Return a shallow copy of a loader with other attributes, even those that a DataLoader protects from changes."""
    copied = copy.copy(loader)
    for name, value in {**attributes, "_iterator": None}.items():
        object.__setattr__(copied, name, value)  # a plain setattr is refused, but nobody else uses this copy
    return copied


class RecordingBatchSampler:
    """Yields the batches of indices of another batch sampler and keeps a copy of each.

    Attributes:
        indices: The batches of indices drawn so far; the user of this object removes them. Workers draw some ahead.
    """

    def __init__(self, batch_sampler: Any) -> None:
        self._batch_sampler = batch_sampler
        self.indices: deque[list[int]] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        self.indices.clear()
        for batch in self._batch_sampler:
            self.indices.append(list(batch))
            yield batch

    def __len__(self) -> int:
        return len(self._batch_sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_batch_sampler"], name)


def keeping_last(loader: Any) -> Any:
    """Return a loader that keeps an incomplete last batch, so that every sample is predicted."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    if not isinstance(loader, DataLoader) or type(batch_sampler) is not BatchSampler or not batch_sampler.drop_last:
        return loader
    return copy_with(loader, batch_sampler=BatchSampler(batch_sampler.sampler, batch_sampler.batch_size, False))


def recording(loader: Any) -> tuple[Any, RecordingBatchSampler | None]:
    """Return a loader whose batch sampler keeps the indices of each batch, and that sampler.

    If the loader draws no indices, it is returned unchanged, with None.
    """
    if (
        not isinstance(loader, DataLoader)
        or isinstance(loader.dataset, IterableDataset)
        or loader.batch_sampler is None
    ):
        return loader, None
    sampler = RecordingBatchSampler(loader.batch_sampler)
    return copy_with(loader, batch_sampler=sampler), sampler


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell the epoch to the loader's samplers and dataset, if they have a method ``set_epoch``.

    Samplers that shuffle by epoch have one, and so have datasets that change with the epoch.

    Args:
        loader: The loader, such as a DataLoader.
        epoch: The epoch, from 0.
    """
    sampler, batch_sampler = (getattr(loader, name, None) for name in ("sampler", "batch_sampler"))
    parts = (sampler, getattr(batch_sampler, "sampler", None), getattr(loader, "dataset", None))
    for part in {id(part): part for part in parts}.values():
        tell = getattr(part, "set_epoch", None)
        if callable(tell):
            tell(epoch)

"""Other samplers in the user's DataLoader, which is built anew for them and stays as it is itself."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from leyden.utilities.exceptions import MisconfigurationException


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
                f"A {type(sampler).__name__} belongs into the {type(loader).__name__}, but its batch sampler "
                f"{type(batch_sampler).__name__} has no attribute 'sampler'. Put one in yourself and pass "
                "Trainer(use_distributed_sampler=False)."
            )
        batch_sampler = copy.copy(batch_sampler)
        batch_sampler.sampler = sampler
    return copy_with(loader, sampler=sampler, batch_sampler=batch_sampler)


def copy_with(loader: DataLoader[Any], **attributes: Any) -> DataLoader[Any]:
    """A shallow copy of a loader with other attributes, those included that a DataLoader does not let be changed."""
    copied = copy.copy(loader)
    for name, value in {**attributes, "_iterator": None}.items():
        object.__setattr__(copied, name, value)  # DataLoader refuses changes of these, but this one is ours alone
    return copied


def keeping_last(loader: Any) -> Any:
    """A loader that does not drop an incomplete last batch: every sample is to be predicted."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    if not isinstance(loader, DataLoader) or type(batch_sampler) is not BatchSampler or not batch_sampler.drop_last:
        return loader
    return copy_with(loader, batch_sampler=BatchSampler(batch_sampler.sampler, batch_sampler.batch_size, False))


class TrackingBatchSampler:
    """Passes on the batches of indices of another batch sampler, and keeps them until they are taken.

    Attributes:
        indices: The batches drawn so far and not taken yet; with workers some are drawn ahead.
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


def tracking(loader: Any) -> Any:
    """A loader whose batch sampler is a :class:`TrackingBatchSampler`, where it is one that draws indices."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or batch_sampler is None:
        return loader
    return copy_with(loader, batch_sampler=TrackingBatchSampler(batch_sampler))


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell samplers that shuffle by epoch, and datasets that change with it, which one it is: those with a method.

    Args:
        loader: What has them, a DataLoader say.
        epoch: The epoch, from 0.
    """
    sampler, batch_sampler = (getattr(loader, name, None) for name in ("sampler", "batch_sampler"))
    parts = (sampler, getattr(batch_sampler, "sampler", None), getattr(loader, "dataset", None))
    for part in {id(part): part for part in parts}.values():
        tell = getattr(part, "set_epoch", None)
        if callable(tell):
            tell(epoch)

"""Which samples a batch holds: a batch sampler that keeps what it drew, for callbacks that write predictions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from leyden.plugins import copy_with


class TrackingBatchSampler:
    """Passes on the batches of indices of another batch sampler, and keeps them.

    Args:
        batch_sampler: The other one; its attributes can be read from this one too.

    Attributes:
        indices: The batches drawn since the iteration began; with workers some are drawn ahead.
    """

    def __init__(self, batch_sampler: Any) -> None:
        self._batch_sampler = batch_sampler
        self.indices: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        self.indices.clear()
        for batch in self._batch_sampler:
            self.indices.append(list(batch))
            yield batch

    def __len__(self) -> int:
        return len(self._batch_sampler)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle ask for special methods that an object need not have
            raise AttributeError(name)
        return getattr(self._batch_sampler, name)


def tracking(loader: Any) -> Any:
    """Return a copy of a loader that keeps the indices of its batches.

    Args:
        loader: A loader of any type.

    Returns:
        The copy, with a :class:`TrackingBatchSampler`; the loader itself if it does not draw batches of indices.
    """
    batch_sampler = getattr(loader, "batch_sampler", None)
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or batch_sampler is None:
        return loader
    return copy_with(loader, batch_sampler=TrackingBatchSampler(batch_sampler))


def indices_of(loader: Any, batch_idx: int) -> list[int]:
    """Return the dataset indices of a batch's samples.

    Args:
        loader: What :func:`tracking` returned.
        batch_idx: The batch's number within the loader, from 0; it has been drawn.

    Returns:
        The indices; none if the loader does not draw batches of indices.
    """
    batch_sampler = getattr(loader, "batch_sampler", None)
    return batch_sampler.indices[batch_idx] if isinstance(batch_sampler, TrackingBatchSampler) else []

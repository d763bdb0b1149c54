"""Random augmentation that depends on the sample alone, for ``seed_everything(seed, workers="sample")``."""

from __future__ import annotations

import hashlib
from collections.abc import Sized
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from leyden.data.loading import copy_with
from leyden.utilities import rank_zero_warn
from leyden.utilities.rng import isolate_rng, seed_host


class SampleSeeded(Dataset[Any]):
    """A dataset that draws the same random numbers for a sample in an epoch whoever loads it.

    Before each item Python's, numpy's and PyTorch's generators of the host are seeded from seed, epoch and index,
    so that the number of workers, of processes and of batches before does not matter. In the main process their
    states are put back afterwards.

    Args:
        dataset: The user's map-style dataset; its attributes are this one's.
        seed: The seed of ``seed_everything``.

    Attributes:
        epoch: The running epoch, in memory that workers share.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        assert isinstance(self.dataset, Sized)
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        key = f"{self.seed}/{int(self.epoch)}/{index!r}".encode()
        with nullcontext() if get_worker_info() is not None else isolate_rng():
            seed_host(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little"))
            return self.dataset[index]

    def set_epoch(self, epoch: int) -> None:
        """Draw other numbers from now on, here and in the workers; the user's dataset is told if it has this method."""
        self.epoch.fill_(epoch)
        tell = getattr(self.dataset, "set_epoch", None)
        if callable(tell):
            tell(epoch)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # __getitems__ would load a batch of samples at once, past __getitem__
            raise AttributeError(name)
        return getattr(self.__dict__["dataset"], name)


def seeded(loader: Any, seed: int) -> Any:
    """A copy of a DataLoader whose dataset is seeded by sample.

    Args:
        loader: A loader; one that is no DataLoader has no dataset to seed.
        seed: The seed of ``seed_everything``.

    Returns:
        The copy, or the loader itself where it has no index to seed by; a warning says so of an iterable dataset.
    """
    if not isinstance(loader, DataLoader):
        return loader
    if isinstance(loader.dataset, IterableDataset):
        rank_zero_warn(
            f'seed_everything(workers="sample"): a {type(loader.dataset).__name__} is iterable and has no sample '
            "index, so what it draws depends on its worker."
        )
        return loader
    return copy_with(loader, dataset=SampleSeeded(loader.dataset, seed))

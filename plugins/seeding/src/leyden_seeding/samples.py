"""Random augmentation that depends only on the sample, for ``seed_everything(seed, workers="sample")``."""

from __future__ import annotations

import hashlib
from collections.abc import Sized
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from leyden.plugins import copy_with
from leyden.utilities import rank_zero_warn
from leyden.utilities.rng import isolate_rng, seed_host


class SampleSeeded(Dataset[Any]):
    """A dataset that draws the same random numbers for a sample in an epoch, whichever process loads it.

    Before each item the CPU's generators of Python, NumPy and PyTorch are seeded with seed, epoch and index. The
    numbers of workers, processes and earlier batches therefore do not matter. In the main process the generators'
    states are restored afterwards.

    Args:
        dataset: The user's map-style dataset; its attributes can be read from this one too.
        seed: The seed of ``seed_everything``.

    Attributes:
        epoch: The current epoch, in memory that is shared with the workers.
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
        """Set the epoch here and in the workers, and in the user's dataset if it has this method.

        Args:
            epoch: The epoch, from 0.
        """
        self.epoch.fill_(epoch)
        tell = getattr(self.dataset, "set_epoch", None)
        if callable(tell):
            tell(epoch)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # __getitems__ would load a batch of samples at once, without this __getitem__
            raise AttributeError(name)
        return getattr(self.__dict__["dataset"], name)


def seeded(loader: Any, seed: int) -> Any:
    """Return a copy of a DataLoader whose dataset is seeded by sample.

    Args:
        loader: A loader of any type.
        seed: The seed of ``seed_everything``.

    Returns:
        The copy; the loader itself if it is not a DataLoader, or if its dataset is iterable. The latter has a warning.
    """
    if not isinstance(loader, DataLoader):
        return loader
    if isinstance(loader.dataset, IterableDataset):
        rank_zero_warn(
            f'seed_everything(workers="sample"): a {type(loader.dataset).__name__} is iterable and has no sample '
            "index, so its random numbers depend on the worker; use a map-style dataset to avoid that."
        )
        return loader
    return copy_with(loader, dataset=SampleSeeded(loader.dataset, seed))

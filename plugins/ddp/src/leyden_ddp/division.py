"""Dividing a dataset among processes: equal parts in training, every sample exactly once in evaluation."""

from __future__ import annotations

import math
import pickle
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from leyden.plugins import copy_with, rebuild
from leyden.strategies import Strategy
from leyden.utilities.rank_zero import rank_zero_info
from leyden.utilities.rng import isolate_rng, seed_host


def divided(loader: Any, training: bool, num_replicas: int, rank: int, seed: int, strategy: Strategy) -> Any:
    """Make a loader of one process's part of the data; a loader that can't or need not be divided is returned itself.

    Args:
        loader: The user's loader. A DataLoader of a map-style dataset is divided, unless its sampler is a
            ``DistributedSampler``, which divides it already.
        training: True if every process must get the same number of samples, so that some samples may be repeated;
            False if every sample must be taken exactly once.
        num_replicas: The number of parts.
        rank: The number of the part, from 0.
        seed: The seed of the order, the same on all ranks.
        strategy: The strategy through which the ranks agree on the order of a sampler of the user's.
    """
    if not isinstance(loader, DataLoader):
        return loader
    if isinstance(loader.dataset, IterableDataset):
        rank_zero_info(
            f"A {type(loader.dataset).__name__} is iterable: every process gets all of it, unless it divides itself "
            "by torch.distributed.get_rank()."
        )
        return loader
    own: Any = getattr(loader.batch_sampler, "sampler", None)  # a batch sampler of the user's has one of its own
    own = loader.sampler if own is None else own
    if isinstance(own, DistributedSampler):
        return loader
    if not training:
        return _for_evaluation(loader, DividedSampler(own, num_replicas, rank, seed, False, strategy))
    if not _takes_all(own, loader.dataset):
        return rebuild(loader, DividedSampler(own, num_replicas, rank, seed, True, strategy))
    shuffle = isinstance(own, RandomSampler)
    return rebuild(loader, DistributedSampler(loader.dataset, num_replicas, rank, shuffle, seed))


def _takes_all(sampler: Any, dataset: Any) -> bool:
    """Whether a sampler is PyTorch's own and takes every sample of the dataset once."""
    if type(sampler) not in (RandomSampler, SequentialSampler) or getattr(sampler, "replacement", False):
        return False
    return len(sampler) == len(dataset)


def _for_evaluation(loader: DataLoader[Any], sampler: DividedSampler) -> DataLoader[Any]:
    batches = loader.batch_sampler
    if type(batches) is not BatchSampler:
        return rebuild(loader, sampler)
    even = EvenBatchSampler(sampler, batches.batch_size, batches.drop_last, len(sampler.sampler))
    return copy_with(loader, sampler=sampler, batch_sampler=even)


class DividedSampler(Sampler[Any]):
    """Every n-th sample of the user's own sampler, for one of n processes.

    The order of the samples depends on the seed and the epoch only, whatever random numbers the process has drawn
    before. A sampler that draws from a generator of its own may have another order in each process: that of rank 0
    counts. So all processes begin to iterate together.

    Args:
        sampler: The user's sampler.
        num_replicas: The number of processes.
        rank: The rank of this process.
        seed: The seed of the run.
        pad: Whether samples are repeated so that all processes get the same number.
        strategy: The strategy through which the processes agree on the order.
    """

    def __init__(self, sampler: Any, num_replicas: int, rank: int, seed: int, pad: bool, strategy: Strategy) -> None:
        self.sampler, self.num_replicas, self.rank, self.seed, self.pad = sampler, num_replicas, rank, seed, pad
        self.epoch, self._strategy = 0, strategy

    @property
    def generator(self) -> Any:
        """The generator of the user's sampler, whose state a checkpoint holds; None where it has none."""
        return getattr(self.sampler, "generator", None)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which changes the order of the samples."""
        self.epoch = epoch
        if callable(set_epoch := getattr(self.sampler, "set_epoch", None)):
            set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        with isolate_rng():
            seed_host(self.seed * 1_000_003 + self.epoch)
            order = list(self.sampler)
        if type(self.sampler) is not SequentialSampler:
            order = _order_of_rank_zero(order, self._strategy)
        if self.pad and order:
            wanted = self.num_replicas * math.ceil(len(order) / self.num_replicas)
            order = (order * math.ceil(wanted / len(order)))[:wanted]
        return iter(order[self.rank :: self.num_replicas])

    def __len__(self) -> int:
        return share(len(self.sampler), self.num_replicas, 0 if self.pad else self.rank)


def _order_of_rank_zero(order: list[Any], strategy: Strategy) -> list[Any]:
    """The order in which rank 0 takes the samples; it is sent only if it is another one than on some rank."""
    marks = strategy.all_gather_object(zlib.crc32(pickle.dumps(order)))
    return strategy.broadcast(order) if len(set(marks)) > 1 else order


class EvenBatchSampler(Sampler[list[Any]]):
    """Batches of this process's samples: the same number of batches as in every other process, no sample twice.

    So steps may call collectives. A process that has one sample less, and would have one batch less, splits its last
    batch in two. Only a process with fewer samples than the others have batches has one batch less, or none at all.

    Args:
        sampler: The samples of this process.
        batch_size: The number of samples in a batch.
        drop_last: Whether samples that don't fill a batch are left out, in all processes alike.
        length: The number of samples of all processes together.
    """

    def __init__(self, sampler: DividedSampler, batch_size: int, drop_last: bool, length: int) -> None:
        self.sampler, self.batch_size, self.drop_last, self.length = sampler, batch_size, drop_last, length

    def sizes(self) -> list[int]:
        """The number of samples in each batch."""
        world, size = self.sampler.num_replicas, self.batch_size
        if self.drop_last:
            return [size] * (self.length // world // size)
        mine, most = len(self.sampler), share(self.length, world, 0)
        sizes = [size] * (mine // size) + ([mine % size] if mine % size else [])
        if len(sizes) < math.ceil(most / size) and sizes and sizes[-1] > 1:
            sizes[-1:] = [sizes[-1] - 1, 1]
        return sizes

    def __iter__(self) -> Iterator[list[Any]]:
        samples = iter(self.sampler)
        return (list(islice(samples, size)) for size in self.sizes())

    def __len__(self) -> int:
        return len(self.sizes())


def share(length: int, world: int, rank: int) -> int:
    """How many of ``length`` samples process ``rank`` of ``world`` gets, if it takes every ``world``-th of them."""
    return len(range(rank, length, world))

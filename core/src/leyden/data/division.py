"""Dividing a dataset among processes: as many samples for each in training, none of them twice in evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import Sampler

from leyden.utilities.rng import isolate_rng, seed_host


class DividedSampler(Sampler[Any]):
    """Every n-th sample of the user's own sampler.

    The order is drawn alike in all processes, whatever random numbers they drew before: by seed and epoch.

    Args:
        sampler: The user's.
        num_replicas: Processes.
        rank: This one.
        seed: The run's.
        pad: Whether samples are repeated so that all processes get as many.
    """

    def __init__(self, sampler: Any, num_replicas: int, rank: int, seed: int, pad: bool) -> None:
        self.sampler, self.num_replicas, self.rank, self.seed, self.pad = sampler, num_replicas, rank, seed, pad
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take another order in each epoch."""
        self.epoch = epoch
        if callable(set_epoch := getattr(self.sampler, "set_epoch", None)):
            set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        with isolate_rng():
            seed_host(self.seed * 1_000_003 + self.epoch)
            order = list(self.sampler)
        if self.pad and order:
            wanted = self.num_replicas * math.ceil(len(order) / self.num_replicas)
            order = (order * math.ceil(wanted / len(order)))[:wanted]
        return iter(order[self.rank :: self.num_replicas])

    def __len__(self) -> int:
        return share(len(self.sampler), self.num_replicas, 0 if self.pad else self.rank)


class EvenBatchSampler(Sampler[list[Any]]):
    """Batches of this process's samples, as many batches as every other process has, and no sample twice.

    Steps may so call collectives. A process that has one sample less, and would have one batch less, takes its last
    batch in two parts; only where there are fewer samples than batches is it one batch short, or has none at all.

    Args:
        sampler: This process's samples.
        batch_size: Samples in a batch.
        drop_last: Whether samples that fill no batch are left out, in all processes alike.
        length: Samples of all processes.
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
    """How many of ``length`` samples a process gets that takes every ``world``-th."""
    return len(range(rank, length, world))

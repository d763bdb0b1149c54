"""A hint at a loader that is plainly unwise: training waits for its data."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from leyden.utilities.rank_zero import rank_zero_warn
from leyden.utilities.warnings import PossibleUserWarning

T = TypeVar("T")
WATCHED = 5.0  # seconds of an epoch in which the waiting is measured


def has_idle_processors(loaders: Iterable[Any]) -> bool:
    """Whether a loader has no workers although there is more than one processor."""
    return (os.cpu_count() or 1) > 1 and any(isinstance(x, DataLoader) and x.num_workers == 0 for x in loaders)


def watched(batches: Iterable[T], source: object) -> Iterator[T]:
    """The batches; for a while measures how long each is waited for, and says so where that is most of the time."""
    iterator = iter(batches)
    yield from islice(iterator, 1)  # the first may open files and the like
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
            f"{share:.0%} of its time for batches; write num_workers=2 or more, so that they are loaded meanwhile.",
            PossibleUserWarning,
        )
    yield from iterator

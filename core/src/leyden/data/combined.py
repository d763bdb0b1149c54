"""CombinedLoader: several loaders, in any nesting of collections, iterated as one.

Modes: ``min_size`` ends with the shortest, ``max_size`` with the longest (None for those that have ended),
``max_size_cycle`` with the longest while the others start over, ``sequential`` goes through one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import count, islice, repeat, zip_longest
from typing import Any, Literal, get_args

from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import DataLoader

from leyden.utilities.rng import collect_rng_states, set_rng_states

Mode = Literal["min_size", "max_size_cycle", "max_size", "sequential"]
INFINITE = float("inf")


class CombinedLoader(Iterable[Any]):
    """Iterates several loaders together and yields ``(batch, batch_idx, dataloader_idx)``.

    Args:
        iterables: A loader, or a list, tuple or dict of them, nested as you like. A batch has the same nesting;
            in ``sequential`` mode it is the batch of one loader.
        mode: How loaders of different lengths go together.

    Attributes:
        restarts: In ``max_size_cycle``: for each loader that has started over in this iteration the batch before
            which it did so last, and the random states with which it did.
    """

    def __init__(self, iterables: Any, mode: Mode = "min_size") -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"CombinedLoader(mode={mode!r}) is not known; write one of {', '.join(get_args(Mode))}.")
        self._iterables = iterables
        self._flattened, self._structure = tree_flatten(iterables)
        self._mode = mode
        self._limits: list[int | float] | None = None
        self._iterators: list[Iterator[Any]] = []
        self._opened: dict[int, Iterator[Any]] = {}
        self._replayed: dict[int, tuple[int, dict[str, Any]]] = {}
        self.restarts: dict[int, tuple[int, dict[str, Any]]] = {}

    @property
    def iterables(self) -> Any:
        """The loaders in the user's own collection."""
        return self._iterables

    @property
    def flattened(self) -> list[Any]:
        """The loaders in a flat list; set it to put others in their places."""
        return self._flattened

    @flattened.setter
    def flattened(self, loaders: list[Any]) -> None:
        if len(loaders) != len(self._flattened):
            raise ValueError(f"There are {len(self._flattened)} loaders to replace, but {len(loaders)} were given.")
        self._flattened = list(loaders)
        self._iterables = tree_unflatten(self._flattened, self._structure)

    @property
    def mode(self) -> Mode:
        """How loaders of different lengths go together."""
        return self._mode

    @property
    def limits(self) -> list[int | float] | None:
        """The most batches to take from each loader, or None."""
        return self._limits

    @limits.setter
    def limits(self, limits: int | float | list[int | float] | None) -> None:
        if isinstance(limits, (int, float)):
            limits = [limits] * len(self._flattened)
        if limits is not None and len(limits) != len(self._flattened):
            raise ValueError(f"There are {len(self._flattened)} loaders, but {len(limits)} limits were given.")
        self._limits = limits

    @property
    def sampler(self) -> Any:
        """The samplers in the user's own collection."""
        return tree_unflatten([getattr(loader, "sampler", None) for loader in self._flattened], self._structure)

    @property
    def batch_sampler(self) -> Any:
        """The batch samplers in the user's own collection."""
        return tree_unflatten([getattr(loader, "batch_sampler", None) for loader in self._flattened], self._structure)

    def sizes(self) -> list[int | float]:
        """Batches of each loader within its limit; infinite where a loader has no length and no limit."""
        return [min(length_of(loader), self._limit(i)) for i, loader in enumerate(self._flattened)]

    def total(self) -> int | float:
        """Batches that an iteration yields; infinite where that is not known."""
        sizes = self.sizes()
        if not sizes:
            return 0
        if self._mode == "sequential":
            return sum(sizes)
        return min(sizes) if self._mode == "min_size" else max(sizes)

    def __len__(self) -> int:
        total = self.total()
        if total == INFINITE:
            raise TypeError("A loader without a length is among those combined, so their length is not known.")
        return int(total)

    def __iter__(self) -> Iterator[tuple[Any, int, int]]:
        if len(self._flattened) == 1 and self._iterables is self._flattened[0]:  # the ordinary case, at C's speed
            return zip(self._limited(self._flattened[0], 0), count(), repeat(0))
        if self._mode == "sequential":
            return self._one_after_another()
        self._iterators, self._opened = [], {}
        # the iterators are made now, not at the first batch, so that each draws its seed at the epoch's start
        self._iterators = [self._limited(loader, i) for i, loader in enumerate(self._flattened)]
        self.restarts = {}
        if self._mode == "max_size_cycle":
            return self._together(self._cycle())
        return self._together((zip if self._mode == "min_size" else zip_longest)(*self._iterators))

    def _limit(self, i: int) -> int | float:
        return self._limits[i] if self._limits is not None else INFINITE

    def _limited(self, loader: Any, i: int) -> Iterator[Any]:
        limit = self._limit(i)
        self._opened.pop(i, None)  # the last one's workers end before there are new ones
        iterator = self._opened[i] = iter(loader)
        return iterator if limit == INFINITE else islice(iterator, int(limit))

    def _one_after_another(self) -> Iterator[tuple[Any, int, int]]:
        for i, loader in enumerate(self._flattened):
            if self._limit(i) == 0:
                continue
            for batch_idx, batch in enumerate(self._limited(loader, i)):
                yield batch, batch_idx, i
            self._opened = {}

    def _together(self, rows: Iterable[Iterable[Any]]) -> Iterator[tuple[Any, int, int]]:
        for batch_idx, batches in enumerate(rows):
            yield tree_unflatten(batches, self._structure), batch_idx, 0

    def stop_workers(self) -> None:
        """End the processes of loaders, which an error's traceback would keep; the next iteration starts new ones."""
        for iterator in self._opened.values():
            shutdown = getattr(iterator, "_shutdown_workers", None)
            if shutdown is not None:
                shutdown()
        for loader in self._flattened:
            if isinstance(loader, DataLoader):
                loader._iterator = None
        self._iterators, self._opened = [], {}

    def replay(self, restarts: Mapping[int, Sequence[Any]]) -> None:
        """Have the next iteration start loaders over with the random states of ``restarts``, an earlier one's."""
        self._replayed = {i: (batch_idx, states) for i, (batch_idx, states) in restarts.items()}

    def _start_over(self, i: int, batch_idx: int) -> None:
        replayed_at, states = self._replayed.get(i, (-1, {}))
        if replayed_at == batch_idx:
            set_rng_states(states)
        else:
            states = collect_rng_states()
        self.restarts[i] = (batch_idx, states)
        self._iterators[i] = self._limited(self._flattened[i], i)

    def _cycle(self) -> Iterator[list[Any]]:
        ended = [False] * len(self._iterators)
        for batch_idx in count():
            batches = []
            for i in range(len(self._iterators)):
                batch = next(self._iterators[i], _END)
                if batch is _END:
                    ended[i] = True
                    if all(ended):
                        return
                    self._start_over(i, batch_idx)
                    batch = next(self._iterators[i], _END)
                    if batch is _END:
                        raise ValueError(f"Loader {i} of the CombinedLoader yields no batches, so it can't be cycled.")
                batches.append(batch)
            yield batches


_END = object()


def every_loader(*combined: CombinedLoader | None) -> list[Any]:
    """The loaders in several combined ones, of which some may not be there yet."""
    return [loader for one in combined if one is not None for loader in one.flattened]


def length_of(loader: Any) -> int | float:
    """The number of batches of a loader; infinite where it has none to tell."""
    if not isinstance(loader, Sized):
        return INFINITE
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return INFINITE

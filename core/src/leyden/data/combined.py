"""CombinedLoader: iterates several loaders, in nested collections, as one.

Modes: ``min_size`` ends with the shortest. ``max_size`` ends with the longest and gives None for those that have ended.
``max_size_cycle`` ends with the longest too, while the others start over. ``sequential`` takes one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice, repeat, zip_longest
from typing import Any, Literal, get_args

from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import DataLoader

from leyden.utilities.rng import collect_rng_states, set_rng_states

Mode = Literal["min_size", "max_size_cycle", "max_size", "sequential"]
INFINITE = float("inf")
_END = object()


class CombinedLoader(Iterable[Any]):
    """Iterates several loaders together and yields ``(batch, batch_idx, dataloader_idx)``.

    Args:
        iterables: A loader, or nested lists, tuples and dicts of loaders. A batch has the same nesting; in
            ``sequential`` mode it is the batch of one loader.
        mode: How to combine loaders of different lengths; see the module's docstring.

    Attributes:
        iterables: The loaders in the user's own collection.
        mode: How loaders of different lengths go together.
        restarts: In ``max_size_cycle``, for each loader that has started over in this iteration: the batch before
            which it last did so, and the random states it then had.
    """

    def __init__(self, iterables: Any, mode: Mode = "min_size") -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"CombinedLoader(mode={mode!r}) is not known; write one of {', '.join(get_args(Mode))}.")
        self.iterables, self.mode = iterables, mode
        self._flattened, self._structure = tree_flatten(iterables)
        self._limits: list[int | float] | None = None
        self._opened: dict[int, Iterator[Any]] = {}
        self._replayed: dict[int, Sequence[Any]] = {}
        self.restarts: dict[int, Sequence[Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: value for name, value in vars(self).items() if name not in ("_structure", "_opened")}
        return type(self), (self.iterables, self.mode), state  # iterators and PyTorch's structures are not copied

    @property
    def flattened(self) -> list[Any]:
        """The loaders as a flat list; set it to replace the loaders."""
        return self._flattened

    @flattened.setter
    def flattened(self, loaders: list[Any]) -> None:
        if len(loaders) != len(self._flattened):
            raise ValueError(f"There are {len(self._flattened)} loaders to replace, but {len(loaders)} were given.")
        self._flattened, self.iterables = list(loaders), tree_unflatten(loaders, self._structure)

    @property
    def limits(self) -> list[int | float] | None:
        """The most batches to take from each loader, or None; one number is set for all of them."""
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
        return tree_unflatten([getattr(one, "sampler", None) for one in self._flattened], self._structure)

    @property
    def batch_sampler(self) -> Any:
        """The batch samplers in the user's own collection."""
        return tree_unflatten([getattr(one, "batch_sampler", None) for one in self._flattened], self._structure)

    def sizes(self) -> list[int | float]:
        """Return the number of batches of each loader within its limit; inf if it has neither length nor limit."""
        return [min(length_of(loader), self._limit(i)) for i, loader in enumerate(self._flattened)]

    def total(self) -> int | float:
        """Return the number of batches in an iteration; inf if unknown."""
        sizes = self.sizes()
        if self.mode == "sequential" or not sizes:
            return sum(sizes)
        return min(sizes) if self.mode == "min_size" else max(sizes)

    def __len__(self) -> int:
        total = self.total()
        if total == INFINITE:
            raise TypeError("The CombinedLoader has no length, since one of its loaders has none.")
        return int(total)

    def __iter__(self) -> Iterator[tuple[Any, int, int]]:
        if self._structure.is_leaf():  # the ordinary case, at C's speed
            return zip(self._open(0), count(), repeat(0))
        if self.mode == "sequential":
            return self._one_after_another()
        self._opened, self.restarts = {}, {}
        # the iterators are made now, not at the first batch, so that each draws its seed at the epoch's start
        iterators = [self._open(i) for i in range(len(self._flattened))]
        if self.mode == "max_size_cycle":
            return self._together(self._cycle(iterators))
        return self._together((zip if self.mode == "min_size" else zip_longest)(*iterators))

    def _limit(self, i: int) -> int | float:
        return self._limits[i] if self._limits is not None else INFINITE

    def _open(self, i: int) -> Iterator[Any]:
        limit = self._limit(i)
        self._opened.pop(i, None)  # the last one's workers end before there are new ones
        iterator = self._opened[i] = iter(self._flattened[i])
        return iterator if limit == INFINITE else islice(iterator, int(limit))

    def _one_after_another(self) -> Iterator[tuple[Any, int, int]]:
        for i in range(len(self._flattened)):
            if self._limit(i) == 0:
                continue
            for batch_idx, batch in enumerate(self._open(i)):
                yield batch, batch_idx, i
            self._opened = {}

    def _together(self, rows: Iterable[Iterable[Any]]) -> Iterator[tuple[Any, int, int]]:
        for batch_idx, batches in enumerate(rows):
            yield tree_unflatten(batches, self._structure), batch_idx, 0

    def _cycle(self, iterators: list[Iterator[Any]]) -> Iterator[list[Any]]:
        ended: set[int] = set()
        for batch_idx in count():
            batches = []
            for i in range(len(iterators)):
                batch = next(iterators[i], _END)
                if batch is _END:
                    ended.add(i)
                    if len(ended) == len(iterators):
                        return
                    iterators[i] = self._start_over(i, batch_idx)
                    batch = next(iterators[i], _END)
                    if batch is _END:
                        raise ValueError(f"Loader {i} of the CombinedLoader yields no batches, so it can't be cycled.")
                batches.append(batch)
            yield batches

    def _start_over(self, i: int, batch_idx: int) -> Iterator[Any]:
        replayed_at, states = self._replayed.get(i, (None, None))
        if replayed_at == batch_idx:
            set_rng_states(states)
        else:
            states = collect_rng_states()
        self.restarts[i] = (batch_idx, states)
        return self._open(i)

    def replay(self, restarts: Mapping[int, Sequence[Any]]) -> None:
        """Have the next iteration start loaders over with the random states of ``restarts``, an earlier one's."""
        self._replayed = dict(restarts)

    def stop_workers(self) -> None:
        """End the loaders' worker processes, which an error's traceback would keep; a new iteration starts new ones."""
        for iterator in self._opened.values():
            if hasattr(iterator, "_shutdown_workers"):
                iterator._shutdown_workers()
                for worker in iterator._workers:  # type: ignore[attr-defined]
                    worker.kill()  # one that hangs and takes no notice of SIGTERM
        for loader in self._flattened:
            if isinstance(loader, DataLoader):
                loader._iterator = None
        self._opened = {}


def length_of(loader: Any) -> int | float:
    """The number of batches of a loader; infinite where it has none to tell."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return INFINITE

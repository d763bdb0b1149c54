"""CombinedLoader: iterates several loaders, in nested collections, as one.

The modes: ``min_size`` ends with the shortest loader. ``max_size`` ends with the longest and yields None for loaders
that have ended. ``max_size_cycle`` ends with the longest and starts the others over. ``sequential`` iterates one
loader after another.
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
        iterables: A loader, or nested lists, tuples and dicts of loaders. A batch has the same nesting; in
            ``sequential`` mode it is the batch of one loader.
        mode: How to combine loaders of different lengths; see the module's docstring.

    Attributes:
        restarts: In ``max_size_cycle``, for each loader that has started over in this iteration: the number of the
            batch for which it last did so, and the random states at that time.

    Raises:
        ValueError: ``mode`` is not known.
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
        """The loaders in the user's collections."""
        return self._iterables

    @property
    def flattened(self) -> list[Any]:
        """The loaders as a flat list; set it to replace the loaders."""
        return self._flattened

    @flattened.setter
    def flattened(self, loaders: list[Any]) -> None:
        if len(loaders) != len(self._flattened):
            raise ValueError(f"There are {len(self._flattened)} loaders to replace, but {len(loaders)} were given.")
        self._flattened = list(loaders)
        self._iterables = tree_unflatten(self._flattened, self._structure)

    @property
    def mode(self) -> Mode:
        """How loaders of different lengths are combined."""
        return self._mode

    @property
    def limits(self) -> list[int | float] | None:
        """The maximum number of batches from each loader; None if there are no limits."""
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
        """The samplers in the user's collections."""
        return tree_unflatten([getattr(loader, "sampler", None) for loader in self._flattened], self._structure)

    @property
    def batch_sampler(self) -> Any:
        """The batch samplers in the user's collections."""
        return tree_unflatten([getattr(loader, "batch_sampler", None) for loader in self._flattened], self._structure)

    def sizes(self) -> list[int | float]:
        """Return the number of batches of each loader within its limit; inf if it has neither length nor limit."""
        return [min(length_of(loader), self._limit(i)) for i, loader in enumerate(self._flattened)]

    def total(self) -> int | float:
        """Return the number of batches in an iteration; inf if unknown."""
        sizes = self.sizes()
        if not sizes:
            return 0
        if self._mode == "sequential":
            return sum(sizes)
        return min(sizes) if self._mode == "min_size" else max(sizes)

    def __len__(self) -> int:
        total = self.total()
        if total == INFINITE:
            raise TypeError("The CombinedLoader has no length, since one of its loaders has none.")
        return int(total)

    def __iter__(self) -> Iterator[tuple[Any, int, int]]:
        if (
            len(self._flattened) == 1 and self._iterables is self._flattened[0]
        ):  # the common case, fast since zip is written in C
            return zip(self._limited(self._flattened[0], 0), count(), repeat(0))
        if self._mode == "sequential":
            return self._one_after_another()
        self._iterators, self._opened = [], {}
        # iterators are made here and not at the first batch, so that each draws its seed at the start of the epoch
        self._iterators = [self._limited(loader, i) for i, loader in enumerate(self._flattened)]
        self.restarts = {}
        if self._mode == "max_size_cycle":
            return self._together(self._cycle())
        return self._together((zip if self._mode == "min_size" else zip_longest)(*self._iterators))

    def _limit(self, i: int) -> int | float:
        return self._limits[i] if self._limits is not None else INFINITE

    def _limited(self, loader: Any, i: int) -> Iterator[Any]:
        limit = self._limit(i)
        self._opened.pop(i, None)  # so that the old iterator's workers end before new ones start
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
        """End the loaders' worker processes, which an error's traceback would keep; a new iteration starts new ones."""
        for iterator in self._opened.values():
            shutdown = getattr(iterator, "_shutdown_workers", None)
            if shutdown is not None:
                shutdown()
        for loader in self._flattened:
            if isinstance(loader, DataLoader):
                loader._iterator = None
        self._iterators, self._opened = [], {}

    def replay(self, restarts: Mapping[int, Sequence[Any]]) -> None:
        """Let loaders start over with the random states of ``restarts`` in the next iteration, as in an earlier one."""
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
    """Return all loaders of several CombinedLoaders; None is ignored."""
    return [loader for one in combined if one is not None for loader in one.flattened]


def length_of(loader: Any) -> int | float:
    """Return the number of batches of a loader; inf if it has no length."""
    if not isinstance(loader, Sized):
        return INFINITE
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return INFINITE

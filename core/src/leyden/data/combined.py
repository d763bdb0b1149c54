"""CombinedLoader: iterates several loaders, in nested collections, as one.

Modes: ``min_size`` ends with the shortest. ``max_size`` ends with the longest and gives None for those that have ended.
``max_size_cycle`` ends with the longest too, while the others start over. ``sequential`` takes one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count, islice, repeat, zip_longest
from typing import Any, Literal, get_args

from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from leyden.data.iteration import Iteration

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
        iteration: The class of the iterations over each loader.
        iterations: Those that run, by the number of the loader.
    """

    def __init__(self, iterables: Any, mode: Mode = "min_size") -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"CombinedLoader(mode={mode!r}) is not known; write one of {', '.join(get_args(Mode))}.")
        self.iterables, self.mode = iterables, mode
        self._flattened, self._structure = tree_flatten(iterables)
        self._limits: list[int | float] | None = None
        self.iteration: type[Iteration] = Iteration
        self.iterations: dict[int, Iteration] = {}
        self._saved: Mapping[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: value for name, value in vars(self).items() if name not in ("_structure", "iterations")}
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
        saved, self._saved = self._saved, {}
        row, places = saved.get("row", 0), saved.get("loaders", {})
        self.iterations = {}  # the workers of the last one end before there are new ones
        if self._structure.is_leaf():  # the ordinary case, at C's speed
            return zip(self._open(0, 0, row, places), count(row), repeat(0))
        if self.mode == "sequential":
            return self._one_after_another()
        # the iterators are made now, not at the first batch, so that each draws its seed at the epoch's start
        iterators = [self._open(i, 0, row, places) for i in range(len(self._flattened))]
        if self.mode == "max_size_cycle":
            return self._together(self._cycle(iterators, row), row)
        return self._together((zip if self.mode == "min_size" else zip_longest)(*iterators), row)

    def _limit(self, i: int) -> int | float:
        return self._limits[i] if self._limits is not None else INFINITE

    def _open(self, i: int, began: int = 0, row: int = 0, places: Mapping[int, Any] | None = None) -> Iterator[Any]:
        """Iterate over loader ``i``, which begins at row ``began`` or has its place in ``places``, from ``row`` on."""
        saved = (places or {}).get(i, {})
        taken = row - saved.get("row", began)
        self.iterations.pop(i, None)  # as above
        iteration = self.iteration(self._flattened[i], began, saved, taken)
        self.iterations[i], limit = iteration, self._limit(i)
        return iteration.iterator if limit == INFINITE else islice(iteration.iterator, max(0, int(limit) - taken))

    def _one_after_another(self) -> Iterator[tuple[Any, int, int]]:
        for i in range(len(self._flattened)):
            if self._limit(i) == 0:
                continue
            for batch_idx, batch in enumerate(self._open(i)):
                yield batch, batch_idx, i
            self.iterations = {}

    def _together(self, rows: Iterable[Iterable[Any]], row: int) -> Iterator[tuple[Any, int, int]]:
        for batch_idx, batches in enumerate(rows, row):
            yield tree_unflatten(batches, self._structure), batch_idx, 0

    def _cycle(self, iterators: list[Iterator[Any]], row: int) -> Iterator[list[Any]]:
        ended = {i for i, iteration in self.iterations.items() if iteration.row > 0}
        for batch_idx in count(row):
            batches = []
            for i in range(len(iterators)):
                batch = next(iterators[i], _END)
                if batch is _END:
                    ended.add(i)
                    if len(ended) == len(iterators):
                        return
                    iterators[i] = self._open(i, batch_idx, batch_idx)
                    batch = next(iterators[i], _END)
                    if batch is _END:
                        raise ValueError(f"Loader {i} of the CombinedLoader yields no batches, so it can't be cycled.")
                batches.append(batch)
            yield batches

    def state_dict(self, row: int) -> dict[str, Any]:
        """The place of each loader in the running iteration, after ``row`` batches of it."""
        return {"row": row, "loaders": {i: each.state_dict(row - each.row) for i, each in self.iterations.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next iteration go on from the places that :meth:`state_dict` returned.

        Where they are not known ("row" alone), it goes on after as many batches.
        """
        self._saved = state

    def stop_workers(self) -> None:
        """End the loaders' worker processes, which an error's traceback would keep; a new iteration starts new ones."""
        for iteration in self.iterations.values():
            iterator: Any = iteration.iterator
            if hasattr(iterator, "_shutdown_workers"):
                iterator._shutdown_workers()
                for worker in iterator._workers:
                    worker.kill()  # one that hangs and takes no notice of SIGTERM
        for loader in self._flattened:
            if isinstance(loader, DataLoader):
                loader._iterator = None
        self.iterations = {}


def length_of(loader: Any) -> int | float:
    """The number of batches of a loader; infinite where it has none to tell."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return INFINITE


def has_sure_length(loader: Any) -> bool:
    """Whether a loader has a length, and can't end before it: a sequence, or PyTorch's batches of a map-style dataset.

    The length of an iterable dataset, or of the user's own batches, is often a guess.
    """
    if isinstance(loader, DataLoader):
        return not isinstance(loader.dataset, IterableDataset) and type(loader.batch_sampler) in (
            BatchSampler,
            type(None),
        )
    return hasattr(type(loader), "__getitem__") and length_of(loader) != INFINITE

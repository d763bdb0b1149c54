"""Going on in the middle of an epoch without reading what is behind, exactly as the run that was never stopped.

A loader, sampler or dataset that has ``state_dict`` and ``load_state_dict`` is asked for its state after a batch. Any
other sampler of a DataLoader draws its order again, with the random states of the epoch's start, and is moved on. What
has neither a state nor a sampler is read up to its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice, repeat
from typing import Any
from weakref import WeakKeyDictionary

from torch.utils.data import DataLoader, IterableDataset

from leyden.plugins import Iteration, copy_with, loader_parts
from leyden.utilities import rank_zero_warn
from leyden.utilities.rng import collect_rng_states, set_rng_states
from leyden_seeding.generators import generators_in, restore, state_of
from leyden_seeding.workers import WorkerStates


class PlacedIteration(Iteration):
    """An iteration over a loader that knows its place; see :class:`leyden.plugins.Iteration`."""

    @staticmethod
    def states_of(loader: Any) -> dict[str, Any]:
        """The states of the generators that the loader and its parts have, and what seeds its workers."""
        keeper = _keeper(loader)
        return {
            "generators": [state_of(generator) for generator in _known_generators(loader)],
            "workers": None if keeper is None else keeper.state_dict(),
            "persists": keeper is not None and loader._iterator is not None,
        }

    @staticmethod
    def restore_states(loader: Any, states: Mapping[str, Any]) -> None:
        """Put back what :meth:`states_of` returned.

        Persistent workers draw their seed when they start and only then: those run afterwards that ran, and no others.
        """
        if (keeper := _keeper(loader)) is not None and states["workers"] is not None:
            if not states["persists"]:
                loader._iterator = None
            elif loader._iterator is None:
                _start_workers(loader)
            keeper.load_state_dict(states["workers"])
        generators = _generators(loader)
        if len(generators) == len(states["generators"]):
            for generator, state in zip(generators, states["generators"], strict=True):
                restore(generator, state)

    def begin(self, saved: Mapping[str, Any], taken: int) -> Iterator[Any]:
        """Start, and go on after the batches that are behind."""
        _forget_generators(self.loader)
        loader, dataset = self.loader, getattr(self.loader, "dataset", None)
        has_workers = getattr(loader, "num_workers", 0) > 0
        is_iterable = isinstance(dataset, IterableDataset)
        self._order: MovedOn | None = None
        self._taken, self._saved, self._workers = taken, saved, _keeper(loader)
        self._asked = loader
        if not is_stateful(loader):
            self._asked = dataset if is_stateful(dataset) and not has_workers else None
        self.is_asked = self.has_state = self._asked is not None
        is_told = self.is_asked and "asked" in saved
        if is_told:
            self._asked.load_state_dict(saved["asked"])
        tells_place = is_told and (self._asked is loader or is_iterable)

        has_order = isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__ and not is_iterable
        workers = saved.get("workers") if not (has_workers and is_stateful(dataset)) else None
        moves_on = has_order and (not taken or not has_workers or workers is not None)
        if self._workers is not None:
            self._workers.begin(loader, taken, workers if moves_on or tells_place else None)
        if tells_place:
            return iter(loader)
        if moves_on:
            return self._move_on(saved, taken)
        if has_order:
            rank_zero_warn(
                f"The workers of the {type(loader).__name__} draw from generators of their own, or can't be known: the "
                f"first {taken} batches of the epoch are read again, so that the run is resumed exactly. Draw from the "
                "generators of random, numpy.random and torch themselves. (Said once.)"
            )
        return super().begin(saved, taken)

    def _move_on(self, saved: Mapping[str, Any], taken: int) -> Iterator[Any]:
        """Iterate over a DataLoader of a map-style dataset from its place, without reading what is behind."""
        loader = self.loader
        name = "sampler" if loader.batch_sampler is None else "batch_sampler"
        blanks = taken % loader.num_workers if loader.num_workers else 0
        ahead = loader.num_workers * (loader.prefetch_factor or 0)
        asked = [part for part in loader_parts(loader) if part is not loader.dataset and is_stateful(part)]
        self.has_state = self.has_state or bool(asked)
        order = self._order = MovedOn(getattr(loader, name), asked, taken, saved.get("order"), blanks, ahead)
        copied = copy_with(loader, **{name: order})
        if (running := loader._iterator) is not None:  # persistent workers
            running._index_sampler = order
            copied._iterator = running
        iterator = iter(copied)
        loader._iterator = copied._iterator
        if taken:
            order.move_on()  # now, where the DataLoader has not done so: before other random states are put back
        deque(islice(iterator, blanks), maxlen=0)
        return iterator

    def state_dict(self, taken: int) -> dict[str, Any]:
        """The place after ``taken`` batches."""
        state = super().state_dict(taken)
        if taken == self._taken:  # some can't tell before they have given a batch
            state.update({"asked": self._saved["asked"]} if "asked" in self._saved else {})
        elif self._asked is not None:
            state["asked"] = self._asked.state_dict()
        if self._order is not None:
            state["order"] = self._order.state_dict(taken)
        if self._workers is not None:
            state["workers"] = self._workers.states_after(taken)
        return state


class MovedOn:
    """Stands for the sampler of batches in one iteration of a DataLoader, which may begin at a later batch.

    Args:
        sampler: The DataLoader's own.
        asked: The samplers that have a state. It is kept for every batch that is drawn, since workers draw ahead.
        taken: How many batches are behind.
        saved: What :meth:`state_dict` returned for those; None where that is not known.
        blanks: How many Nones to give first, so that every batch goes to the worker to which it would have gone.
        ahead: How many batches are drawn ahead at most.
    """

    def __init__(
        self, sampler: Any, asked: list[Any], taken: int, saved: Mapping[str, Any] | None, blanks: int, ahead: int
    ) -> None:
        self.sampler, self._asked, self._blanks, self._drawn = sampler, asked, blanks, taken
        known = {"rng": None, "samplers": None, "behind": taken, **(saved or {})}
        self._rng: Mapping[str, Any] | None = known["rng"]
        states, self._behind = known["samplers"], known["behind"]
        self._states: deque[Any] = deque([states] * (1 + self._behind) if states else [None], maxlen=ahead + 4)
        for part, state in zip(asked, states or (), strict=False):
            part.load_state_dict(state)
        self._batches: Iterator[Any] | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        # workers that live on would have it for another iteration too
        return chain.from_iterable(self._draw()) if self._batches is None else iter(self.sampler)

    def _draw(self) -> Iterator[Iterable[Any]]:
        """The batches in pieces, so that nothing is called for each where nobody is asked."""
        batches = self.move_on()
        yield repeat(None, self._blanks)
        yield self._asking(batches) if self._asked else batches

    def _asking(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._drawn += 1
            self._states.append([part.state_dict() for part in self._asked])
            yield batch

    def move_on(self) -> Iterator[Any]:
        """Draw the batches that are behind, unless that is done, with the random states of their first drawing.

        A sampler draws when the first batch is asked for. Another loader may have drawn before, after this one began.
        """
        if self._batches is None:
            if self._rng is not None:
                set_rng_states(self._rng)
            self._rng = collect_rng_states()
            self._batches = iter(self.sampler)
            deque(islice(self._batches, self._behind), maxlen=0)
        return self._batches

    def state_dict(self, taken: int) -> dict[str, Any]:
        """The random states before the first batch was drawn, and the samplers' own.

        The latter are those from before the last of the ``taken`` batches, so that a sampler has begun when this
        iteration goes on, and the next begins anew.
        """
        if not self._asked or not taken:
            return {"rng": self._rng, "samplers": None, "behind": taken}
        behind = 1 if taken > 1 else 0
        return {"rng": self._rng, "samplers": self._states[taken - behind - self._drawn - 1], "behind": behind}


def is_stateful(part: Any) -> bool:
    """Whether something can be asked for its state, and be given it back."""
    return all(callable(getattr(part, name, None)) for name in ("state_dict", "load_state_dict"))


def _keeper(loader: Any) -> WorkerStates | None:
    """What keeps the random states of a loader's workers; None where nothing does."""
    keeper = getattr(loader, "worker_init_fn", None)
    return keeper if isinstance(keeper, WorkerStates) else None


def _generators(loader: Any) -> list[Any]:
    """The generators that this process draws from for a loader; the dataset's are not, where workers have copies."""
    if not isinstance(loader, DataLoader):
        return generators_in(loader)
    dataset = () if loader.num_workers else (loader.dataset, loader.collate_fn)
    parts = [part for part in loader_parts(loader) if part is not loader and part is not loader.dataset]
    return generators_in(loader.generator, *parts, *dataset)


# Of each loader: looking for them costs more than a batch, and some places are kept for every batch.
_FOUND: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()


def _known_generators(loader: Any) -> list[Any]:
    """The generators of a loader, looked for once in an iteration."""
    if not _can_be_key(loader):
        return _generators(loader)
    if loader not in _FOUND:
        _FOUND[loader] = _generators(loader)
    return _FOUND[loader]


def _forget_generators(loader: Any) -> None:
    if _can_be_key(loader):
        _FOUND.pop(loader, None)


def _can_be_key(loader: Any) -> bool:
    """Whether there are weak references to it, by identity: not to a list of batches, or a tensor of them."""
    kind: Any = type(loader)
    return bool(kind.__eq__ is object.__eq__ and kind.__weakrefoffset__ > 0)


def _start_workers(loader: DataLoader[Any]) -> None:
    """Start persistent workers, and have them load nothing."""
    idle: Any = copy_with(loader, **{"sampler" if loader.batch_sampler is None else "batch_sampler": ()})
    running: Any = iter(idle)
    running._index_sampler = loader._index_sampler
    loader._iterator = running

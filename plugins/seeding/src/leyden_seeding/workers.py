"""The random states of a DataLoader's workers, kept where the main process can read them.

Workers load ahead, so what they have drawn is more than what the batches needed that were trained on. A worker
therefore writes down its random states after each batch. A checkpoint gets those after the last batch that was trained
on, and the workers of a resumed run begin with them.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data.dataloader import _DatasetKind

from leyden.plugins import copy_with
from leyden.utilities.rng import collect_rng_states, seed_host, set_rng_states
from leyden_seeding.generators import generators_in, state_of

_KEYS, _SIZE = 625 + 624, 5056  # of random and numpy.random; of torch
_BETWEEN = 1_000_003  # the seeds of two iterations, more than anyone has workers
_AS_SEEDED, _AS_SAVED = -1, -2  # what workers begin with, else a seed


class WorkerStates:
    """The ``worker_init_fn`` of a loader, which keeps the random states of its workers.

    Persistent workers are seeded anew for each iteration but their first. PyTorch seeds them only once, so that what
    they draw would depend on all that they have ever drawn.

    Args:
        loader: The loader, whose own ``worker_init_fn`` is called first.
        seed: The number from which persistent workers are seeded.
    """

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        self.init, self._count, self._seed = loader.worker_init_fn, loader.num_workers, seed
        self._is_known = getattr(loader, "in_order", True)  # else nobody knows which worker loads which batch
        self._iterations = self._behind = 0
        self._places = (loader.prefetch_factor or 0) + 4
        shape = (self._count, 1 + self._places)  # for each worker: what it begins with, and what it had after batches
        self._bytes = torch.zeros(*shape, _SIZE, dtype=torch.uint8).share_memory_()
        self._keys = torch.zeros(*shape, _KEYS + 2, dtype=torch.int64).share_memory_()
        self._gauss = torch.zeros(*shape, 3, dtype=torch.float64).share_memory_()
        self._begins_with = torch.full((self._count,), _AS_SEEDED, dtype=torch.int64).share_memory_()
        self._draws_elsewhere = torch.zeros((), dtype=torch.bool).share_memory_()

    # -- in the main process ------------------------------------------------------------------------------

    def begin(self, loader: DataLoader[Any], taken: int, states: Sequence[Any] | None) -> None:
        """Prepare the workers for an iteration that is about to start.

        Args:
            loader: The loader.
            taken: How many batches of it are behind.
            states: What :meth:`states_after` returned for them; None for a new iteration.
        """
        persists, self._iterations = loader.persistent_workers and self._iterations > 0, self._iterations + 1
        self._behind = taken if states is not None else 0
        self._begins_with.fill_(self._seed + self._iterations * _BETWEEN if persists else _AS_SEEDED)
        for worker, state in enumerate(states or ()):
            if state is not None:
                self._write(worker, 0, state)
                self._begins_with[worker] = _AS_SAVED

    def states_after(self, taken: int) -> list[dict[str, Any] | None] | None:
        """The random states of each worker after so many batches of the iteration.

        None stands for those of a worker that has not loaded any, and for all where they are not known.
        """
        if not self._is_known or self._draws_elsewhere:
            return None
        return [self._state_after(worker, taken) for worker in range(self._count)]

    def _state_after(self, worker: int, taken: int) -> dict[str, Any] | None:
        loaded = len(range(worker, taken, self._count)) - len(range(worker, self._behind, self._count))
        if loaded:
            return self._read(worker, self._place(loaded))
        return self._read(worker, 0) if self._begins_with[worker] == _AS_SAVED else None

    def state_dict(self) -> dict[str, Any]:
        """From what persistent workers are seeded next."""
        return {"seed": self._seed, "iterations": self._iterations, "draws_elsewhere": bool(self._draws_elsewhere)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        self._seed, self._iterations = state["seed"], state["iterations"]
        self._draws_elsewhere.fill_(state["draws_elsewhere"])

    # -- in a worker --------------------------------------------------------------------------------------

    def __call__(self, worker_id: int) -> None:
        """Have this worker keep its states from now on."""
        if self.init is not None:
            self.init(worker_id)
        kinds: Any = _DatasetKind
        create = kinds.create_fetcher

        def create_keeping(kind: Any, dataset: Any, *options: Any) -> Any:
            info = get_worker_info()
            if info is None or info.dataset is not dataset:  # a loader within the worker
                return create(kind, dataset, *options)
            begins_with = int(self._begins_with[worker_id])
            if begins_with == _AS_SAVED:
                set_rng_states(self._read(worker_id, 0))
            elif begins_with != _AS_SEEDED:
                seed_host(begins_with + worker_id)
            fetcher = create(kind, dataset, *options)
            fetcher.fetch = _Fetch(self, worker_id, fetcher)
            return fetcher

        kinds.create_fetcher = create_keeping

    def keep(self, worker_id: int, count: int) -> None:
        """Write down the states of this worker, after ``count`` batches of the iteration."""
        self._write(worker_id, self._place(count), collect_rng_states())

    def tell_of_others(self) -> None:
        """Tell the main process that the dataset draws from generators of its own, which are not kept."""
        self._draws_elsewhere.fill_(True)

    # -- in memory that they share ------------------------------------------------------------------------

    def _place(self, count: int) -> int:
        return 1 + count % self._places

    def _write(self, worker: int, place: int, states: Mapping[str, Any]) -> None:
        _, internal, gauss = states["python"]
        _, keys, position, has_gauss, second = states["numpy"]
        self._bytes[worker, place] = states["torch"]
        self._keys[worker, place] = torch.cat([torch.tensor(internal), keys, torch.tensor([position, has_gauss])])
        self._gauss[worker, place] = torch.tensor([gauss is not None, gauss or 0.0, second], dtype=torch.float64)

    def _read(self, worker: int, place: int) -> dict[str, Any]:
        keys, (has_gauss, gauss, second) = self._keys[worker, place], self._gauss[worker, place].tolist()
        position, has_second = keys[_KEYS:].tolist()
        return {
            "torch": self._bytes[worker, place].clone(),
            "python": (3, tuple(keys[:625].tolist()), gauss if has_gauss else None),
            "numpy": ("MT19937", keys[625:_KEYS].clone(), position, has_second, second),
        }


class _Fetch:
    """Loads a batch as the DataLoader's own fetcher does, and keeps the worker's random states."""

    def __init__(self, states: WorkerStates, worker_id: int, fetcher: Any) -> None:
        self._states, self._worker_id, self._fetch, self._count = states, worker_id, fetcher.fetch, 0
        self._is_iterable = isinstance(fetcher.dataset, IterableDataset)  # then without batches all indices are None
        self._roots = (fetcher.dataset, fetcher.collate_fn)
        self._others = generators_in(*self._roots)
        self._before = self._states_of_others()

    def _states_of_others(self) -> bytes:
        return pickle.dumps([state_of(generator) for generator in self._others])

    def __call__(self, indices: Any) -> Any:
        if indices is None and not self._is_iterable:  # the place of a batch that is behind
            return None
        batch = self._fetch(indices)
        self._count += 1
        is_new = self._count == 1 and len(generators_in(*self._roots)) > len(self._others)
        if is_new or (self._others and self._states_of_others() != self._before):
            self._states.tell_of_others()
        self._states.keep(self._worker_id, self._count)
        return batch


def seeded_by_rank(loader: Any, rank: int) -> Any:
    """A copy of a DataLoader that seeds its workers, for ``seed_everything(workers=True)``; not if the user does it.

    PyTorch gives the workers of one process different seeds, but the workers of equally seeded processes get the same
    seeds. The rank makes them different.

    Args:
        loader: A loader of any type.
        rank: The rank of this process.
    """
    if isinstance(loader, DataLoader) and loader.worker_init_fn is None:
        return copy_with(loader, worker_init_fn=partial(_seed_worker, rank))
    return loader


def _seed_worker(rank: int, worker_id: int) -> None:
    seed_host(torch.initial_seed() + rank * _BETWEEN)


def keeping(loader: Any, training: bool, rank: int) -> Any:
    """A copy of a DataLoader that keeps the random states of its workers; any other loader as it is.

    Args:
        loader: A loader of any type.
        training: Whether it is trained on. Else only workers that are persistent are of interest: others are seeded
            anew for each pass, and a resumed run makes a pass from its beginning.
        rank: The rank of this process, so that the workers of all have different seeds.
    """
    if not isinstance(loader, DataLoader) or not (training or loader.persistent_workers):
        return loader
    return copy_with(loader, worker_init_fn=WorkerStates(loader, torch.initial_seed() % 2**61 + rank * _BETWEEN**2))

"""A fit that is resumed in mid-epoch goes on as the one that was never stopped, and reads nothing twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

import leyden as pl
from leyden_testing.training import quiet_trainer

ROWS = 14


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")  # so that what seed_everything leaves there is undone


class Rows(Dataset[torch.Tensor]):
    """Rows with noise from every generator of the process; counts how often each was read, in all workers."""

    def __init__(self) -> None:
        self.reads = torch.zeros(ROWS, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> torch.Tensor:
        self.reads[index] += 1
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


class Sees(pl.LightningModule):
    """Notes every batch, and draws from every generator between two."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        drawn = (random.random(), np.random.rand(), torch.rand(()).item())
        flat = batch.values() if isinstance(batch, dict) else [batch]
        self.seen.append((self.current_epoch, batch_idx, [one.tolist() for one in flat], drawn))
        return self.layer.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Validated(Sees):
    """Notes the batches of validation too."""

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.seen.append((self.current_epoch, "validation", batch.tolist()))


class Saves(pl.Callback):
    """Saves at each call of a few hooks."""

    def __init__(self, root: Path) -> None:
        self.root, self.saved = root, list[tuple[Path, int]]()

    def save(self, trainer: pl.Trainer, module: Any) -> None:
        path = self.root / f"{len(self.saved):02}.ckpt"
        trainer.save_checkpoint(path)
        self.saved.append((path, len(module.seen)))

    @pl.hookimpl(trylast=True)
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.save(trainer, pl_module)

    @pl.hookimpl(trylast=True)
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save(trainer, pl_module)

    @pl.hookimpl(tryfirst=True)
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.fit_loop.progress.batch_idx == 1:  # the first batch of an epoch
            self.save(trainer, pl_module)


def fit(root: Path, loader: Any, seed: int = 1, validation: Any = None, **options: Any) -> tuple[list[Any], Saves]:
    """What a fit has seen, and its checkpoints."""
    pl.seed_everything(seed, verbose=False)
    ckpt_path = options.pop("ckpt_path", None)
    saves, module = Saves(root), Sees() if validation is None else Validated()
    callbacks = [saves] if ckpt_path is None else []
    quiet_trainer(root, **{"max_epochs": 3, "callbacks": callbacks, **options}).fit(
        module, loader, validation, ckpt_path=ckpt_path
    )
    return module.seen, saves


def all_resumed(root: Path, make: Callable[[], Any], every: int = 1, **options: Any) -> None:
    """Resume from every checkpoint, or every nth, of a fit, and compare what comes after it."""
    whole, saves = fit(root, make(), **options)
    assert len({entry[0] for entry in whole}) == 3
    for path, written in saves.saved[::every]:
        rest, _ = fit(root, make(), seed=99, ckpt_path=path, **options)
        assert rest == whole[written:], (path.name, written)


class Shuffler(Sampler[int]):
    """Shuffles with a generator of its own, and can say where it is only when it has begun."""

    def __init__(self, count: int = ROWS) -> None:
        self.count, self.generator_of_mine, self.saved = count, random.Random(0), None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        self.given = 0
        if self.saved is not None:
            (version, numbers, gauss), self.given = self.saved
            self.generator_of_mine.setstate((version, tuple(numbers), gauss))
            self.saved = None
        self.start, order = self.generator_of_mine.getstate(), list(range(self.count))
        self.generator_of_mine.shuffle(order)
        for index in order[self.given :]:
            self.given += 1
            yield index

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.saved = state["start"], state["given"]


class StatefulBatches(BatchSampler):
    """Batches that keep their own place."""

    def __init__(self) -> None:
        super().__init__(range(ROWS), 4, False)
        self.given = self.skip = 0

    def __iter__(self) -> Iterator[list[int]]:
        self.given, self.skip = self.skip, 0
        for first in range(4 * self.given, ROWS, 4):
            self.given += 1
            yield [*range(first, min(first + 4, ROWS))]

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skip = state["given"]


class Unstated(Sampler[int]):
    """Shuffles with a generator of its own, and has no state to ask for."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)

    def __len__(self) -> int:
        return ROWS

    def __iter__(self) -> Iterator[int]:
        return iter(self.rng.permutation(ROWS).tolist())


PLAIN: dict[str, dict[str, Any]] = {
    "in order": {},
    "shuffled": {"shuffle": True},
    "with a generator": {"shuffle": True, "generator": 5},
    "single rows": {"batch_size": None, "shuffle": False},
    "a stateful sampler": {"sampler": Shuffler},
    "stateful batches": {"batch_sampler": StatefulBatches, "batch_size": 1},
    "a sampler with its own generator": {"sampler": Unstated},
}


def loader_of(dataset: Any, generator: int | None = None, **options: Any) -> DataLoader[Any]:
    made = {name: value() if isinstance(value, type) else value for name, value in options.items()}
    if generator is not None:
        made["generator"] = torch.Generator().manual_seed(generator)
    return DataLoader(dataset, **{"batch_size": 4, **made})


@pytest.mark.parametrize("kind", PLAIN)
def test_in_the_main_process(tmp_path: Path, kind: str) -> None:
    all_resumed(tmp_path, lambda: loader_of(Rows(), **PLAIN[kind]), every=1 if kind != "single rows" else 4)


WORKERS = {
    "shuffled": {"shuffle": True},
    "a stateful sampler": {"sampler": Shuffler},
    "persistent": {"shuffle": True, "persistent_workers": True},
    "persistent, stateful batches": {"batch_sampler": StatefulBatches, "batch_size": 1, "persistent_workers": True},
    "one": {"shuffle": True, "num_workers": 1, "prefetch_factor": 4},
    "none ahead": {"shuffle": True, "prefetch_factor": 1},
}


@pytest.mark.parametrize("kind", WORKERS)
def test_with_workers(tmp_path: Path, kind: str) -> None:
    """The augmentation too is that of the run which was never stopped."""
    make = lambda: loader_of(Rows(), **{"num_workers": 2, "multiprocessing_context": "fork", **WORKERS[kind]})  # noqa: E731
    all_resumed(tmp_path, make, every=4)


@pytest.mark.parametrize("options", [{}, {"limit_train_batches": 2}, {"accumulate_grad_batches": 2}], ids=str)
def test_two_loaders_of_which_one_starts_over(tmp_path: Path, options: dict[str, Any]) -> None:
    def make() -> dict[str, Any]:
        short = torch.utils.data.Subset(Rows(), range(6))
        return {"long": loader_of(Rows(), shuffle=True), "short": loader_of(short, sampler=partial(Shuffler, 6)())}

    all_resumed(tmp_path, make, **options)


@pytest.mark.filterwarnings("ignore:.*shuffling enabled")
def test_validation_with_persistent_workers(tmp_path: Path) -> None:
    def rows() -> Any:
        return loader_of(Rows(), shuffle=True, num_workers=1, persistent_workers=True, multiprocessing_context="fork")

    options = {"val_check_interval": 2, "num_sanity_val_steps": 1}
    whole, saves = fit(tmp_path, rows(), validation=rows(), **options)
    for path, written in saves.saved[1::6]:
        rest, _ = fit(tmp_path, rows(), seed=99, validation=rows(), ckpt_path=path, **options)
        assert rest == whole[written:], path.name


@pytest.mark.parametrize("workers", [{}, {"num_workers": 2, "multiprocessing_context": "fork"}], ids=["none", "two"])
def test_no_sample_is_read_twice(tmp_path: Path, workers: dict[str, Any]) -> None:
    _, saves = fit(tmp_path, loader_of(Rows(), shuffle=True, **workers), max_epochs=1)
    rows = Rows()
    rest, _ = fit(tmp_path, loader_of(rows, shuffle=True, **workers), seed=9, ckpt_path=saves.saved[3][0], max_epochs=1)
    read = [int(row[0]) for _, _, batches, _ in rest for row in batches[0]]
    assert len(read) == 2
    assert rows.reads.nonzero().flatten().tolist() == sorted(read)


class OwnGenerator(Rows):
    """Draws from a generator that nobody but it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(7)

    def __getitem__(self, index: int) -> torch.Tensor:
        return super().__getitem__(index) + self.rng.random()


class MadeLate(Rows):
    """Makes its generator when it is needed."""

    def __getitem__(self, index: int) -> torch.Tensor:
        if not hasattr(self, "rng"):
            info = get_worker_info()
            self.rng = random.Random(0 if info is None else info.id)
        return super().__getitem__(index) + self.rng.random()


class Counting(Rows):
    """Changes with each row that is read, and can be asked for its state."""

    count = 0

    def __getitem__(self, index: int) -> torch.Tensor:
        self.count += 1
        return super().__getitem__(index) + self.count

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


@pytest.mark.parametrize("rows", [OwnGenerator, MadeLate, Counting])
def test_what_workers_have_of_their_own_is_told_and_read_again(tmp_path: Path, rows: type[Rows]) -> None:
    make = lambda: loader_of(rows(), shuffle=True, num_workers=2, multiprocessing_context="fork")  # noqa: E731
    whole, saves = fit(tmp_path, make())
    path, written = saves.saved[8]
    with pytest.warns(UserWarning, match=r"generators of their own, or can't be known: the first \d batches"):
        rest, _ = fit(tmp_path, make(), seed=9, ckpt_path=path)
    assert rest == whole[written:]


@pytest.mark.parametrize("rows", [OwnGenerator, Counting])
def test_without_workers_it_is_kept(tmp_path: Path, rows: type[Rows]) -> None:
    all_resumed(tmp_path, lambda: loader_of(rows(), shuffle=True))


# -- loaders and streams with a state -------------------------------------------------------------------------


class Own:
    """Shuffles with its own generator, which goes on from epoch to epoch."""

    def __init__(self) -> None:
        self.generator, self.given, self.order = random.Random(0), 0, None

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[torch.Tensor]:
        if self.order is None:
            self.order, self.given = list(range(10)), 0
            self.generator.shuffle(self.order)
        while self.order is not None:
            self.given += 1
            pair = self.order[2 * self.given - 2 : 2 * self.given]
            if self.given == 5:
                self.order = None
            yield torch.tensor(pair) + random.random()

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.getstate(), "given": self.given, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        version, numbers, gauss = state["generator"]
        self.generator.setstate((version, tuple(numbers), gauss))
        self.given, self.order = state["given"], state["order"]


class Unsized(Own):
    """The same without a length."""

    def __len__(self) -> int:
        raise TypeError


class Stream:
    """Goes on where it was, for ever."""

    def __init__(self) -> None:
        self.given = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            self.given += 1
            yield torch.tensor([self.given + random.random()])

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.given = state["given"]


class Texts(IterableDataset[torch.Tensor]):
    """A stream as a dataset, which ends and begins again."""

    given = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        while self.given < ROWS:
            self.given += 1
            yield torch.tensor([self.given + random.random()])
        self.given = 0

    state_dict, load_state_dict = Stream.state_dict, Stream.load_state_dict


STATEFUL: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "its own generator": (Own, {}),
    "the same, cut": (Own, {"limit_train_batches": 3}),
    "without a length": (Unsized, {}),
    "an endless stream": (Stream, {"limit_train_batches": 4}),
    "one batch an epoch": (Stream, {"limit_train_batches": 1}),
    "an iterable dataset": (lambda: DataLoader(Texts(), 4), {}),
}


@pytest.mark.parametrize("kind", STATEFUL)
def test_what_has_a_state_is_asked(tmp_path: Path, kind: str) -> None:
    make, options = STATEFUL[kind]
    all_resumed(tmp_path, make, **options)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_torchdata(tmp_path: Path) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    workers = {"num_workers": 2, "multiprocessing_context": "fork"}
    for options, every in [
        ({"shuffle": True}, 1),
        ({"sampler": Shuffler()}, 1),
        ({"shuffle": True, **workers}, 5),
        ({"batch_sampler": StatefulBatches(), **workers}, 5),
    ]:
        options.setdefault("batch_size", 1 if "batch_sampler" in options else 4)
        make = lambda: stateful(Rows(), **options)  # noqa: B023, E731
        all_resumed(tmp_path, make, every)
    all_resumed(tmp_path, lambda: stateful(Rows(), 4, shuffle=True), limit_train_batches=2)

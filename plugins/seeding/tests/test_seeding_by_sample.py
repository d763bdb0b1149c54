"""Seeding by sample: augmentation depends only on seed, epoch and index, and the run's own numbers do not change."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

import leyden


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the environment variables that seed_everything sets."""
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)


def draw() -> tuple[float, float, float]:
    """Return a random number from each generator of the CPU."""
    return random.random(), float(numpy.random.rand()), float(torch.rand(()))


class Augmented(Dataset[torch.Tensor]):
    """A dataset whose items have noise from every generator."""

    scale = 1.0

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        assert index in range(8)
        return torch.tensor([index, *draw()], dtype=torch.float64)


class BatchAugmented(Augmented):
    """The same dataset, which loads a whole batch at once."""

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [self[index] for index in indices]


class Sees(leyden.LightningModule):
    """A model that keeps every batch of every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
        self.seen: list[tuple[int, torch.Tensor]] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch))
        return self.layer(torch.ones(1, 4)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def noise(self) -> dict[tuple[int, int], tuple[float, ...]]:
        """Return the random numbers of each sample in each epoch, by epoch and index."""
        rows = [(epoch, *row) for epoch, batch in self.seen for row in batch.tolist()]
        return {(epoch, int(index)): tuple(numbers) for epoch, index, *numbers in rows}


def trainer_of(tmp_path: Path) -> leyden.Trainer:
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return leyden.Trainer(accelerator="cpu", max_epochs=2, default_root_dir=tmp_path, **quiet)


def seen(tmp_path: Path, dataset: Any, **options: Any) -> Sees:
    """Train for two epochs on a dataset and return the model."""
    leyden.seed_everything(5, workers="sample", verbose=False)
    model, loader = Sees(), DataLoader(dataset, **{"batch_size": 2, "shuffle": True, **options})
    trainer = trainer_of(tmp_path)
    trainer.fit(model, loader)
    assert trainer.train_dataloader.dataset.scale == 1.0
    assert loader.dataset is dataset
    return model


@pytest.mark.parametrize("dataset", [Augmented, BatchAugmented])
def test_it_depends_on_seed_epoch_and_index_alone(tmp_path: Path, dataset: type[Augmented]) -> None:
    alone = seen(tmp_path, dataset()).noise()
    assert len(alone) == 16
    assert len(set(alone.values())) == 16  # no two samples, and no two epochs, draw the same
    workers = seen(tmp_path, dataset(), num_workers=2, persistent_workers=True, multiprocessing_context="fork")
    assert workers.noise() == alone
    assert seen(tmp_path, dataset(), num_workers=1, batch_size=3).noise() == alone


def test_the_main_process_keeps_its_random_numbers(tmp_path: Path) -> None:
    class Fixed(Augmented):
        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.full((4,), float(index), dtype=torch.float64)

    orders: list[Any] = []
    for dataset in (Augmented(), Fixed()):
        model = seen(tmp_path, dataset)
        orders.append([batch[:, 0].tolist() for _, batch in model.seen])
        orders.append(draw())
    assert orders[:2] == orders[2:]


def test_other_ways_of_seeding_leave_the_dataset_alone(tmp_path: Path) -> None:
    leyden.seed_everything(5, workers=True, verbose=False)
    loader, trainer = DataLoader(Augmented(), 2), trainer_of(tmp_path)
    trainer.fit(Sees(), loader)
    assert trainer.train_dataloader.dataset is loader.dataset


def test_a_dataset_is_told_of_each_epoch(tmp_path: Path) -> None:
    class Told(Augmented):
        epochs: list[int] = []  # noqa: RUF012

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    seen(tmp_path, dataset := Told())
    assert dataset.epochs == [0, 1]


def test_an_iterable_dataset_is_warned_of(tmp_path: Path) -> None:
    class Stream(IterableDataset[torch.Tensor]):
        def __iter__(self) -> Iterator[torch.Tensor]:
            return iter([torch.zeros(4)])

    leyden.seed_everything(5, workers="sample", verbose=False)
    with pytest.warns(UserWarning, match="Stream is iterable and has no sample index"):
        trainer_of(tmp_path).fit(Sees(), DataLoader(Stream()))


def test_a_loader_of_another_type_is_unchanged(tmp_path: Path) -> None:
    leyden.seed_everything(5, workers="sample", verbose=False)
    batches, trainer = torch.zeros(2, 1, 4), trainer_of(tmp_path)
    trainer.fit(Sees(), batches)
    assert trainer.train_dataloader is batches

"""The hint at loaders without workers: once in a run, and none where it is only small or under barebones."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl
from leyden_testing.models import ValidatedModel, rows
from leyden_testing.training import quiet_trainer


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when it is told to, and a machine of four processors."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    return now


class Slow(TensorDataset):
    """Rows that take so many seconds each."""

    def __init__(self, clock, seconds, count=40):
        super().__init__(torch.ones(count, 4), torch.ones(count, 2))
        self.clock, self.seconds = clock, seconds

    def __getitem__(self, index):
        self.clock[0] += self.seconds
        return super().__getitem__(index)


def model_of(clock, seconds):
    """A model whose step takes so long."""

    class Model(ValidatedModel):
        def training_step(self, batch, batch_idx):
            clock[0] += seconds
            return super().training_step(batch, batch_idx)

    return Model()


def said(run):
    """The hints that a run gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    texts = [str(warning.message) for warning in caught]
    return [text for text in texts if "many workers" in text]


def test_training_that_waits_for_its_data(tmp_path, clock):
    """Where Lightning says of every loader with few workers that they may be too few, Leyden measures."""
    loader = DataLoader(Slow(clock, 0.3), batch_size=2)
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    (text,) = said(lambda: trainer.fit(model_of(clock, 0.2), loader, rows(1)))
    assert "does not have many workers (num_workers=0), and training waits 75% of its time for batches" in text
    assert text.startswith("the train_dataloaders that were passed gave")
    assert trainer.global_step == 40


@pytest.mark.parametrize(
    ("seconds_of_loading", "seconds_of_steps", "workers", "processors", "barebones"),
    [
        (0.1, 0.3, 0, 4, False), (0.02, 0, 0, 4, False), (0.3, 0, 1, 4, False), (0.3, 0, 0, 1, False),
        (0.3, 0, 0, 4, True),
    ],
    ids=["long steps", "short epoch", "a worker", "one processor", "barebones"],
)  # fmt: skip
def test_training_that_does_not_wait_or_can_not_help_it(
    tmp_path, clock, monkeypatch, seconds_of_loading, seconds_of_steps, workers, processors, barebones
):
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    loader = DataLoader(Slow(clock, seconds_of_loading), batch_size=2, num_workers=workers)
    if barebones:
        trainer = pl.Trainer(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, barebones=True)
    else:
        trainer = quiet_trainer(tmp_path)
    assert said(lambda: trainer.fit(model_of(clock, seconds_of_steps), loader, rows(1))) == []


def test_the_first_batch_may_take_its_time(tmp_path, clock):
    """Files are opened and indices read with it."""

    class SlowToStart(Slow):
        def __getitem__(self, index):
            self.seconds = 60 if index == 0 else 0.1
            return super().__getitem__(index)

    loader = DataLoader(SlowToStart(clock, 0), batch_size=2)
    assert said(lambda: quiet_trainer(tmp_path).fit(model_of(clock, 0.3), loader, rows(1))) == []

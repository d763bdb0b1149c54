"""Warnings of possible mistakes: each once in a run, none if all is well or with ``barebones=True``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import leyden
from leyden.plugin_system.discovery import discover
from leyden.utilities.warnings import PossibleUserWarning
from leyden_testing.models import rows
from leyden_testing.training import quiet_trainer


class Model(leyden.LightningModule):
    """A model that logs its loss as it is told.

    Args:
        **logged: Arguments of ``self.log`` for the loss; without them nothing is logged.
    """

    def __init__(self, **logged: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Dropout())
        self.logged = logged

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.layer(batch[0]).square().mean()
        if self.logged:
            self.log("loss", loss, **self.logged)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.layer(batch[0])

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layer(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., leyden.Trainer]:
    """A function that makes a quiet Trainer."""
    return partial(quiet_trainer, tmp_path)


def said(run: Callable[[], Any]) -> list[str]:
    """Run a function and return the texts of its warnings of possible mistakes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(warning.message) for warning in caught if issubclass(warning.category, PossibleUserWarning)]


# -- parts in evaluation mode -----------------------------------------------------------------------------


def test_parts_in_evaluation_mode_are_named_when_training_starts(trainer: Any) -> None:
    model = Model()
    model.layer[1].eval()
    (text,) = said(lambda: trainer(max_epochs=2).fit(model, rows(2), rows(1)))
    assert text.startswith("1 module(s) are in evaluation mode at the start of training, 'layer.1' first;")
    model.eval()
    (text,) = said(lambda: trainer().fit(model, rows(2), rows(1)))
    assert text.startswith("4 module(s) are in evaluation mode at the start of training, 'the whole model' first;")
    assert said(lambda: trainer(barebones=True).fit(model, rows(2), rows(1))) == []


# -- parts that are left out of checkpoints ---------------------------------------------------------------


@pytest.fixture
def without_metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A block in which the plugin that keeps the states of metrics is disabled."""
    monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", "torchmetrics")
    discover.cache_clear()
    yield
    discover.cache_clear()


def test_metrics_whose_states_no_plugin_keeps(trainer: Any, without_metrics: None) -> None:
    metric = type("Metric", (torch.nn.Module,), {"__module__": "torchmetrics.metric"})
    model = Model()
    model.accuracy, model.error = metric(), type("Error", (metric,), {})()
    (text,) = said(lambda: trainer(max_epochs=2).fit(model, rows(2), rows(1)))
    assert "'accuracy', a Metric, accumulates will not be in checkpoints" in text
    assert "leyden-torchmetrics" in text
    assert said(lambda: trainer(barebones=True).fit(model, rows(2), rows(1))) == []


# -- steps that are not logged ----------------------------------------------------------------------------

BY_STEP = {"on_step": True}


@pytest.mark.parametrize("logged", [BY_STEP, {"on_step": True, "on_epoch": True}], ids=str)
def test_steps_of_which_no_logger_sees_any_in_an_epoch_are_said_once(trainer: Any, logged: dict[str, Any]) -> None:
    (text,) = said(lambda: trainer(logger="csv", max_epochs=3).fit(Model(**logged), rows(4), rows(1)))
    assert text == (
        "An epoch has 4 batches, fewer than log_every_n_steps=50: some epochs log no step at all; "
        "set a smaller log_every_n_steps."
    )


@pytest.mark.parametrize(
    ("logged", "options"),
    [
        ({}, {}),
        ({"on_step": False, "on_epoch": True}, {}),
        ({"on_step": True, "logger": False}, {}),
        (BY_STEP, {"logger": False}),
        (BY_STEP, {"log_every_n_steps": 4}),
        (BY_STEP, {"log_every_n_steps": 0}),
        (BY_STEP, {"fast_dev_run": True}),
        (BY_STEP, {"barebones": True, "logger": False}),
    ],
    ids=str,
)
def test_where_there_is_nothing_to_see_or_it_is_seen_nothing_is_said(
    trainer: Any, logged: dict[str, Any], options: dict[str, Any]
) -> None:
    assert said(lambda: trainer(**{"logger": "csv", **options}).fit(Model(**logged), rows(4), rows(1))) == []


def test_the_step_with_which_a_run_ends_early_is_logged(trainer: Any) -> None:
    class Stop(leyden.Callback):
        def on_train_batch_end(self, trainer: leyden.Trainer, *_: Any) -> None:
            trainer.should_stop = True

    run = trainer(logger="csv", callbacks=[Stop()])
    assert said(lambda: run.fit(Model(**BY_STEP), rows(4), rows(1))) == []
    assert "loss" in run.logged_metrics


# -- shuffling --------------------------------------------------------------------------------------------

SHUFFLED = "dataloaders that were passed gave a DataLoader with shuffling enabled: each pass sees the batches in"


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_shuffled_evaluation_data(trainer: Any, stage: str) -> None:
    (text,) = said(lambda: getattr(trainer(), stage)(Model(), rows(2, shuffle=True)))
    assert SHUFFLED in text
    assert text.endswith("write shuffle=False.")


@pytest.mark.parametrize(
    "options", [{}, {"reload_dataloaders_every_n_epochs": 1}, {"num_sanity_val_steps": 0}], ids=str
)
def test_it_is_said_once_in_a_fit(trainer: Any, options: dict[str, Any]) -> None:
    (text,) = said(lambda: trainer(max_epochs=3, **options).fit(Model(), rows(1), rows(2, shuffle=True)))
    assert SHUFFLED in text


def test_what_may_be_shuffled(trainer: Any) -> None:
    """Training data, any data with ``barebones=True``, and data drawn by the user's own sampler."""

    class Own(RandomSampler):
        pass

    data = TensorDataset(torch.ones(4, 4))
    assert said(lambda: trainer().fit(Model(), rows(2, shuffle=True), rows(1))) == []
    assert said(lambda: trainer().validate(Model(), DataLoader(data, sampler=Own(data)))) == []
    assert said(lambda: trainer(barebones=True).validate(Model(), rows(2, shuffle=True))) == []


# -- waiting for data -------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that moves only when a test changes it, on a machine with four processors."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    return now


class Slow(TensorDataset):
    """A dataset of rows that each take some time to load.

    Args:
        clock: The clock to move.
        seconds: The seconds that a row takes.
        first: The seconds that the first row takes; by default the same.
    """

    def __init__(self, clock: list[float], seconds: float, first: float | None = None) -> None:
        super().__init__(torch.ones(40, 4))
        self.clock, self.seconds, self.first = clock, seconds, seconds if first is None else first

    def __getitem__(self, index: int) -> Any:
        self.clock[0] += self.seconds if index else self.first
        return super().__getitem__(index)


def model_of(clock: list[float], seconds: float) -> Model:
    """Return a model whose training step takes that many seconds of the clock."""

    class Steps(Model):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            clock[0] += seconds
            return super().training_step(batch, batch_idx)

    return Steps()


def test_training_that_waits_for_its_data(trainer: Any, clock: list[float]) -> None:
    """Lightning warns of every loader with few workers; Leyden measures whether training waits."""
    run = trainer(max_epochs=2)
    (text,) = said(lambda: run.fit(model_of(clock, 0.2), DataLoader(Slow(clock, 0.3), 2), rows(1)))
    assert "does not have many workers (num_workers=0), and training waits 75% of its time for batches" in text
    assert text.startswith("the train_dataloaders that were passed gave")
    assert run.global_step == 40


def test_one_slow_loader_among_several_is_found(trainer: Any, clock: list[float]) -> None:
    class Of(Model):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(batch["slow"], batch_idx)

    loaders = {"none": [torch.ones(1)] * 20, "slow": DataLoader(Slow(clock, 0.3), 2)}
    (text,) = said(lambda: trainer().fit(Of(), loaders, rows(1)))
    assert "does not have many workers" in text


@pytest.mark.parametrize(
    ("seconds_of_loading", "seconds_of_steps", "workers", "processors", "barebones"),
    [
        (0.1, 0.3, 0, 4, False), (0.02, 0, 0, 4, False), (0.3, 0, 1, 4, False), (0.3, 0, 0, 1, False),
        (0.3, 0, 0, 4, True),
    ],
    ids=["long steps", "short epoch", "a worker", "one processor", "barebones"],
)  # fmt: skip
def test_no_warning_if_training_does_not_wait_or_workers_would_not_help(
    trainer: Any,
    clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
    seconds_of_loading: float,
    seconds_of_steps: float,
    workers: int,
    processors: int,
    barebones: bool,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    loader = DataLoader(Slow(clock, seconds_of_loading), 2, num_workers=workers)
    run = trainer(barebones=barebones)
    assert said(lambda: run.fit(model_of(clock, seconds_of_steps), loader, rows(1))) == []


def test_the_first_batch_may_take_its_time(trainer: Any, clock: list[float]) -> None:
    """Loading it may open files or read an index."""
    loader = DataLoader(Slow(clock, 0.1, first=60), 2)
    assert said(lambda: trainer().fit(model_of(clock, 0.3), loader, rows(1))) == []


def test_only_the_first_epoch_is_watched(trainer: Any, clock: list[float]) -> None:
    class SlowLater(Slow):
        passes = 0

        def __getitems__(self, indices: list[int]) -> list[Any]:
            self.passes += 0 in indices
            self.clock[0] += 0.6 * (self.passes > 1)
            return [super(Slow, self).__getitem__(index) for index in indices]

    loader = DataLoader(SlowLater(clock, 0), 2)
    assert said(lambda: trainer(max_epochs=2).fit(model_of(clock, 0), loader, rows(1))) == []
    assert clock[0] == pytest.approx(112)

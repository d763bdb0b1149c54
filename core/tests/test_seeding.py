"""Random numbers: seeding everything, workers included, and keeping random states aside."""

import os
import random
import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, get_worker_info

import leyden as pl
from leyden.plugin_system.manager import PluginManager
from leyden.utilities import isolate_rng
from leyden_testing.models import LoggingModel, ValidatedModel, rows
from leyden_testing.training import quiet_trainer, same_weights


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """What seed_everything leaves in the environment is undone."""
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)


def draw():
    """A number from each generator."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1])
def test_the_same_seed_draws_the_same(seed):
    assert pl.seed_everything(seed) == seed
    first = draw()
    pl.seed_everything(seed + 1 if seed < 2**32 - 1 else 0)
    assert draw() != first
    pl.seed_everything(seed)
    assert draw() == first


def test_it_says_what_it_did(caplog):
    with caplog.at_level("INFO", logger="leyden"):
        pl.seed_everything(7)
        pl.seed_everything(8, verbose=False)
    assert caplog.messages == ["Seed set to 7"]


def test_the_seed_is_handed_on_to_processes_to_come(monkeypatch):
    pl.seed_everything(7, workers=True)
    assert (os.environ["PL_GLOBAL_SEED"], os.environ["PL_SEED_WORKERS"]) == ("7", "1")
    monkeypatch.setenv("PL_GLOBAL_SEED", "9")
    assert pl.seed_everything() == 9
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert pl.seed_everything() == 0


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=f"seed={seed}"):
        pl.seed_everything(seed)


@pytest.mark.parametrize("text", ["soon", "", "-1", "1.5", str(2**32)])
def test_a_seed_in_the_environment_that_is_none(monkeypatch, text):
    monkeypatch.setenv("PL_GLOBAL_SEED", text)
    with pytest.raises(ValueError, match=f"PL_GLOBAL_SEED='{text}' in the environment is no seed"):
        pl.seed_everything()


def test_isolated_draws_change_nothing():
    pl.seed_everything(1)
    expected = draw()
    pl.seed_everything(1)
    with isolate_rng():
        inside = draw()
        np.random.seed(3)
    assert inside == expected
    assert draw() == expected


def test_isolation_survives_an_error():
    pl.seed_everything(1)
    expected = draw()
    pl.seed_everything(1)
    with pytest.raises(ZeroDivisionError), isolate_rng():
        random.seed(draw()[0] / 0)
    assert draw() == expected


def test_a_fit_is_repeated_by_its_seed(tmp_path):
    models = []
    for seed in (3, 3, 4):
        pl.seed_everything(seed)
        model = LoggingModel()
        quiet_trainer(tmp_path, max_epochs=2).fit(model, rows(4, shuffle=True))
        models.append(model)
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])


@pytest.mark.filterwarnings("ignore:.*shuffling enabled")
@pytest.mark.parametrize("steps", [0, 2])
def test_the_sanity_check_draws_nothing_from_the_fit(tmp_path, steps):
    class Model(ValidatedModel):
        def validation_step(self, batch, batch_idx):
            draw()

        def on_train_start(self):
            self.drawn = draw()

    pl.seed_everything(5)
    model = Model()
    quiet_trainer(tmp_path, num_sanity_val_steps=steps, limit_train_batches=1).fit(
        model, rows(1), rows(2, shuffle=True)
    )
    pl.seed_everything(5)
    Model()
    assert model.drawn == draw()


# -- workers ------------------------------------------------------------------------------------------------


class Noise:
    """Each row is what the worker that reads it draws."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([get_worker_info().id, *draw()], dtype=torch.float64)


class Keep(LoggingModel):
    def __init__(self):
        super().__init__()
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen += batch.tolist()
        return self.layer.weight.sum()


def rows_of_noise(tmp_path, workers, seed, **options):
    pl.seed_everything(seed, workers=workers)
    model = Keep()
    loader = DataLoader(Noise(), num_workers=2, **options)
    quiet_trainer(tmp_path, max_epochs=2).fit(model, loader)
    return model.seen, loader


def test_workers_draw_by_the_seed_and_each_its_own(tmp_path):
    first, loader = rows_of_noise(tmp_path, True, 1)
    assert rows_of_noise(tmp_path, True, 1)[0] == first
    assert rows_of_noise(tmp_path, True, 2)[0] != first
    drawn = [value for row in first for value in row[1:]]
    assert len(set(drawn)) == len(drawn)  # over generators, rows, workers and epochs
    assert loader.worker_init_fn is None  # the user's own loader stays as it is


def test_workers_that_the_user_seeds_are_left_alone(tmp_path):
    def own(worker_id):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)

    first, loader = rows_of_noise(tmp_path, True, 1, worker_init_fn=own)
    assert loader.worker_init_fn is own
    assert rows_of_noise(tmp_path, True, 2, worker_init_fn=own)[0] == first


def test_without_workers_asked_for_no_function_is_put_in(tmp_path):
    assert rows_of_noise(tmp_path, False, 1)[1].worker_init_fn is None


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ("samples", "There is no worker seeding 'samples'; installed: rank, sample. Did you mean 'sample'?"),
        (2, 'workers=2 is not known; write True, False or a name such as "sample".'),
    ],
)
def test_workers_takes_what_is_documented(workers, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        pl.seed_everything(5, workers=workers)
    assert "PL_SEED_WORKERS" not in os.environ


def test_a_way_of_seeding_that_is_not_installed_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("leyden.plugin_system.discovery.discover", PluginManager)
    with pytest.raises(ValueError, match=r"^There is no worker seeding 'sample'; .*: pip install leyden-seeding\.$"):
        pl.seed_everything(5, workers="sample")
    assert "PL_GLOBAL_SEED" not in os.environ

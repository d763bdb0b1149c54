"""The simple profiler in a Trainer."""

import pytest
import torch

import leyden as pl
from leyden.profilers import PassThroughProfiler, SimpleProfiler
from leyden_testing.training import quiet_trainer


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        with self.trainer.profiler.profile("forward"):
            return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.layer(batch).sum())

    def on_train_epoch_start(self):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(tmp_path, profiler):
    trainer = quiet_trainer(tmp_path, max_epochs=2, profiler=profiler, num_sanity_val_steps=0)
    trainer.fit(
        Model(), torch.utils.data.DataLoader(torch.ones(6, 4), 2), torch.utils.data.DataLoader(torch.ones(4, 4))
    )
    return trainer


@pytest.mark.parametrize("name", ["simple", "SimpleProfiler"])
def test_it_has_a_name_and_prints_its_table(tmp_path, caplog, monkeypatch, name):
    monkeypatch.setattr("leyden.utilities.rank_zero.log.propagate", True)
    trainer = fit(tmp_path, name)
    assert type(trainer.profiler) is SimpleProfiler
    assert "FIT Profiler Report" in caplog.text
    assert "training_step" in caplog.text


def test_it_counts_steps_hooks_and_what_the_user_measures(tmp_path):
    calls = {
        action: len(times) for action, times in fit(tmp_path, SimpleProfiler()).profiler.recorded_durations.items()
    }
    counted = {
        name: next((count for action, count in calls.items() if action.endswith(name)), 0)
        for name in ("forward", "training_step", "validation_step", "on_train_epoch_start")
    }
    expected = {"forward": 6, "training_step": 6, "validation_step": 8, "on_train_epoch_start": 2}
    assert {name: counted[name] for name in expected} == expected


def test_the_report_is_written_to_a_file(tmp_path):
    fit(tmp_path, SimpleProfiler(dirpath=tmp_path, filename="times"))
    (file,) = tmp_path.glob("fit-times*.txt")
    assert "training_step" in file.read_text()


@pytest.mark.parametrize("profiler", [None, PassThroughProfiler()])
def test_where_nothing_is_measured_the_user_s_code_is_the_same(tmp_path, profiler, monkeypatch):
    """Without a profiler the loops call none."""
    called = []
    monkeypatch.setattr(PassThroughProfiler, "start", lambda self, action: called.append(action))
    trainer = fit(tmp_path, profiler)
    assert type(trainer.profiler) is PassThroughProfiler
    assert called == ["forward"] * 6

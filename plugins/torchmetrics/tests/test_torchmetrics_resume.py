"""A resumed run has the accumulated states of its metrics, to the last bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchmetrics

import leyden as pl
from leyden.plugins import discover
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.killed_run import Options, SaveAt, fit
from leyden_testing.models import LoggingModel, RecordingLogger, rows
from leyden_testing.training import quiet_trainer

from .measured_run import MeasuredModel

pytestmark = pytest.mark.filterwarnings("ignore:.*shuffling enabled")  # the order of validation is resumed too


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")  # so that changes by seed_everything are undone


@pytest.mark.slow
def test_killed_again_and_again(tmp_path):
    """Every logged value is that of the uninterrupted run."""
    cases = {"accumulating": {"seed": 1}}
    script = Path(__file__).with_name("measured_run.py")
    command = [sys.executable, str(script), str(tmp_path), json.dumps(cases)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500).stderr
    for case in cases:
        whole = (tmp_path / case / "whole.jsonl").read_text().splitlines()
        parts = [path.read_text().splitlines() for path in sorted((tmp_path / case).glob("part-*.jsonl"))]
        assert len(parts) > 3, said
        assert "weights" in whole[-1]
        assert '"train_r2"' in whole[-2]
        reached = 0
        for part in filter(None, parts):
            start = whole.index(part[0])
            assert start <= reached
            assert part == whole[start : start + len(part)]
            reached = start + len(part)
        assert reached == len(whole), said


HOOKS = ["on_train_batch_end", "on_validation_batch_end", "on_validation_end", "on_train_epoch_end"]


@pytest.mark.parametrize("hook", HOOKS)
def test_from_a_checkpoint_of_a_hook(tmp_path, hook):
    options = Options(max_epochs=2)
    saver = SaveAt(tmp_path, hook)
    whole, _ = fit(tmp_path, options, callbacks=[saver], model=MeasuredModel)
    assert any("train_error_step" in entry.get("metrics", ()) for entry in whole)
    assert any("train_error_epoch" in entry.get("metrics", ()) for entry in whole)
    for path, written in saver.saved[1::2]:
        rest, _ = fit(tmp_path, options, ckpt_path=path, seed=99, model=MeasuredModel)
        if hook == "on_validation_batch_end":  # a resumed run repeats the validation from its start
            written = 1 + max(i for i in range(written) if "ended" in whole[i])
        assert rest == whole[written:], path.name


class Counting(LoggingModel):
    """Counts its batches with a metric, and keeps the metric's value from the start of training."""

    def __init__(self):
        super().__init__()
        self.count, self.unseen = torchmetrics.SumMetric(), torchmetrics.SumMetric()

    def on_train_start(self):
        self.at_start = self.count.compute().item() if self.count.update_count else None

    def training_step(self, batch, batch_idx):
        self.count.update(1.0)
        self.log("count", self.count, on_step=False, on_epoch=True)
        return self.loss(batch)


class Stop(pl.Callback):
    """Saves a checkpoint after ``after`` batches of the epoch, and ends the run there."""

    def __init__(self, path, after):
        self.path, self.after = path, after

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx + 1 == self.after:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


def trained(tmp_path, model, ckpt_path=None, callbacks=()):
    """Train on the four batches of an epoch; return the logged values."""
    logger = RecordingLogger()
    trainer = quiet_trainer(tmp_path, logger=logger, log_every_n_steps=1, callbacks=list(callbacks))
    trainer.fit(model, rows(4), ckpt_path=ckpt_path)
    return logger


def stopped(tmp_path, model):
    """Return the path of a checkpoint of a run that ended after two of the batches."""
    path = tmp_path / "two.ckpt"
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, model, callbacks=[Stop(path, 2)])
    return path


def test_a_metric_that_has_seen_nothing_starts_anew(tmp_path):
    path = stopped(tmp_path, Counting())
    kept = torch.load(path, weights_only=True)["leyden"]["ranks"][0]["plugins"]["torchmetrics"]
    assert kept.keys() == {"count"}
    model = Counting()
    model.count.update(100.0)
    model.unseen.update(100.0)
    logger = trained(tmp_path, model, path)
    assert model.at_start == 2
    assert model.unseen.update_count == 0
    assert [value for _, value in logger.values("count")] == [4.0]


def test_of_another_number_of_processes_metrics_start_anew(tmp_path):
    path = stopped(tmp_path, Counting())
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["leyden"]["ranks"] *= 2
    torch.save(checkpoint, path)
    model = Counting()
    model.count.update(100.0)
    trained(tmp_path, model, path)
    assert model.at_start is None


def test_a_metric_that_the_module_no_longer_has_is_left_out(tmp_path):
    class Other(Counting):
        def __init__(self):
            super().__init__()
            del self.count
            self.renamed = torchmetrics.SumMetric()

        on_train_start = None

        def training_step(self, batch, batch_idx):
            self.renamed.update(1.0)
            self.log("renamed", self.renamed, on_step=False, on_epoch=True)
            return self.loss(batch)

    path = stopped(tmp_path, Counting())
    logger = trained(tmp_path, Other(), path)
    assert [value for _, value in logger.values("renamed")] == [2.0]
    assert logger.values("count") == []


@pytest.fixture
def without_the_plugin(monkeypatch):
    monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", "leyden-torchmetrics")
    discover.cache_clear()
    yield
    discover.cache_clear()


DISABLED = "The plugin 'torchmetrics' of leyden-torchmetrics .* is disabled"


def test_without_the_plugin_a_metric_is_refused_and_its_loss_is_said_once(tmp_path, without_the_plugin):
    with (
        pytest.warns(
            UserWarning, match=f"the module's 'unseen', a SumMetric, .* will not be in checkpoints.* {DISABLED}"
        ),
        pytest.raises(MisconfigurationException, match=rf"self\.log\('count', …\) got a SumMetric, .*{DISABLED}"),
    ):
        trained(tmp_path, Counting())


def test_without_the_plugin_a_run_goes_on_without_its_metrics(tmp_path, without_the_plugin, monkeypatch):
    class Silent(Counting):
        def training_step(self, batch, batch_idx):
            return self.loss(batch)

    monkeypatch.delenv("LEYDEN_PLUGINS_DISABLED")
    discover.cache_clear()
    path = stopped(tmp_path, Counting())
    monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", "torchmetrics")
    discover.cache_clear()
    model = Silent()
    with pytest.warns(UserWarning, match="will not be in checkpoints") as said:
        logger = trained(tmp_path, model, path)
    assert len(said) == 1
    assert model.trainer.global_step == 4
    assert logger.values("count") == []

"""Resuming is exact: the run that goes on from a checkpoint is the run that never stopped, to the last bit."""

import json
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, Sampler

import leyden as pl
from leyden_testing.killed_run import Model, Options, Rows, SaveAt, fit, loaders

pytestmark = pytest.mark.filterwarnings("ignore:.*shuffling enabled")  # the order of validation is resumed too
KILLED = {
    "no workers": {"seed": 1},
    "two workers": {"num_workers": 2, "seed": 6},
    "persistent workers": {"num_workers": 2, "persistent_workers": True, "seed": 8},
    "persistent workers, noise by sample": {
        "num_workers": 2,
        "persistent_workers": True,
        "by_sample": True,
        "seed": 9,
        "lives": 6,
    },
    "loaders with their own generators": {"data": "generator", "seed": 1},
    "data without length": {"data": "unsized", "seed": 2},
    "a loader that starts over": {"data": "cycle", "seed": 3, "save_every": 1},
    "plateau schedulers": {"plateau": True, "seed": 4},
    "manual accumulation": {"manual": True, "seed": 5, "save_every": 1},
}


@pytest.fixture(scope="module")
def killed_runs(tmp_path_factory):
    """Where all cases have been run, and what was said meanwhile."""
    directory = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "leyden_testing.killed_run", str(directory), json.dumps(KILLED)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500)
    return directory, done.stderr


@pytest.mark.xdist_group("killed runs")
@pytest.mark.parametrize("case", KILLED)
def test_killed_again_and_again(killed_runs, case):
    """Every batch, every number drawn, every logged value and the weights are those of the run left alone."""
    directory, said = killed_runs
    whole = (directory / case / "whole.jsonl").read_text().splitlines()
    parts = [path.read_text().splitlines() for path in sorted((directory / case).glob("part-*.jsonl"))]
    assert len(parts) > 3, said
    assert "weights" in whole[-1]
    reached = 0
    for part in filter(None, parts):
        assert part[0] in whole[: reached + 1], "a life begins with what the run left alone never does"
        start = whole.index(part[0])
        assert part == whole[start : start + len(part)]
        reached = start + len(part)
    assert reached == len(whole), said


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")  # so that what seed_everything leaves there is undone


HOOKS = [
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
    "on_fit_end",
]


GENERATOR, CYCLE = Options(data="generator"), Options(data="cycle", max_epochs=2)
CASES = [
    *((hook, Options()) for hook in HOOKS),
    ("on_validation_end", GENERATOR),
    ("on_train_epoch_end", GENERATOR),
    ("on_train_batch_end", CYCLE),
]


@pytest.mark.parametrize(("hook", "options"), CASES, ids=[f"{hook}, {options.data}" for hook, options in CASES])
def test_from_a_checkpoint_of_every_hook(tmp_path, hook, options):
    saver = SaveAt(tmp_path, hook)
    whole, _ = fit(tmp_path, options, callbacks=[saver])
    assert saver.saved
    for path, written in saver.saved:
        rest, _ = fit(tmp_path, options, ckpt_path=path, seed=99)
        assert rest == whole[written:], path.name


@pytest.mark.parametrize("hook", ["on_validation_start", "on_validation_batch_end", "on_validation_epoch_end"])
def test_from_a_checkpoint_within_validation(tmp_path, hook):
    """The validation is made again, from its beginning."""
    saver = SaveAt(tmp_path, hook)
    whole, _ = fit(tmp_path, callbacks=[saver])
    assert len(saver.saved) >= 6
    for path, written in saver.saved:
        rest, _ = fit(tmp_path, ckpt_path=path, seed=99)
        batch_end = max(i for i in range(written) if "ended" in whole[i])
        assert rest == whole[batch_end + 1 :], path.name


def test_after_a_fit_for_longer(tmp_path):
    whole, _ = fit(tmp_path, max_epochs=4)
    first, trainer = fit(tmp_path, max_epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    rest, _ = fit(tmp_path, max_epochs=4, ckpt_path=tmp_path / "two.ckpt", seed=99)
    assert first[:-1] + rest == whole


def test_in_the_same_process_with_the_same_objects(tmp_path):
    """Loaders whose workers live on from the run before start as they did in that run."""
    options = Options(num_workers=1, persistent_workers=True, max_epochs=2)
    saver = SaveAt(tmp_path, "on_train_batch_end")
    train, _ = loaders(options)
    whole, _ = fit(tmp_path, options, [saver], train=train)
    for path, written in saver.saved[2::4]:
        rest, _ = fit(tmp_path, options, ckpt_path=path, seed=99, train=train)
        assert rest == whole[written:], path.name


class Interrupt(pl.Callback):
    """Does something to the run after so many batches, and saves when the run ends for it."""

    def __init__(self, path, after, act):
        self.path, self.left, self.act = path, after, act

    @pl.hookimpl(trylast=True)
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.left -= 1
        if self.left == 0:
            self.act(trainer)

    def on_exception(self, trainer, pl_module, exception):
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("after", [1, 2, 3, 4, 7, 10])
def test_after_a_request_to_end(tmp_path, after):
    """The run ends at the next boundary, when all that belongs to the batch is done."""
    whole, _ = fit(tmp_path)
    path = tmp_path / "end.ckpt"
    saver = Interrupt(path, after, lambda trainer: setattr(trainer, "asked_to_end", "maintenance"))
    with pytest.raises(SystemExit):
        fit(tmp_path, callbacks=[saver])
    rest, _ = fit(tmp_path, ckpt_path=path, seed=99)
    assert rest == whole[len(saver.notes.entries) :]


class Failing:
    """Rows without noise that can't be read at one moment."""

    def __init__(self, rows, at):
        self.rows, self.left = rows, at

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            raise OSError("the disk is gone")
        return self.rows[index]


@pytest.mark.parametrize("at", [5, 9, 14, 27, 30])
def test_after_a_failure_of_the_data(tmp_path, at):
    def train(fails_at):  # rows without noise, since those of the batch that failed are read twice
        return DataLoader(Failing(Rows(noise=0.0), fails_at), 4, shuffle=True)

    whole, _ = fit(tmp_path, train=train(0))
    saver = Interrupt(tmp_path / "end.ckpt", -1, None)
    with pytest.raises(OSError, match="the disk is gone"):
        fit(tmp_path, callbacks=[saver], train=train(at))
    rest, _ = fit(tmp_path, ckpt_path=tmp_path / "end.ckpt", seed=99, train=train(0))
    assert rest == whole[len(saver.notes.entries) :]


class FailingModel(Model):
    """Fails in one training step, before it has drawn anything."""

    left = 0

    def training_step(self, batch, batch_idx):
        self.left -= 1
        if self.left == 0:
            raise ArithmeticError("no more")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("at", [1, 2, 6, 8, 11])
def test_after_a_failure_of_the_model(tmp_path, at):
    """The batch is trained on again, on top of what was accumulated before it."""

    def train():
        return DataLoader(Rows(noise=0.0), 4, shuffle=True)

    whole, _ = fit(tmp_path, train=train())
    saver = Interrupt(tmp_path / "end.ckpt", -1, None)
    saver.setup = lambda trainer, pl_module, stage: setattr(pl_module, "left", at)
    with pytest.raises(ArithmeticError, match="no more"):
        fit(tmp_path, callbacks=[saver], train=train(), model=FailingModel)
    rest, _ = fit(tmp_path, ckpt_path=tmp_path / "end.ckpt", seed=99, train=train())
    assert rest == whole[len(saver.notes.entries) :]


class ByEpoch(Sampler):
    """Shuffles by epoch as DistributedSampler does."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 26

    def __iter__(self):
        return iter(torch.randperm(26, generator=torch.Generator().manual_seed(self.epoch)).tolist())


def test_sampler_that_shuffles_by_epoch(tmp_path):
    def train():
        return DataLoader(Rows(), 4, sampler=ByEpoch())

    saver = SaveAt(tmp_path, "on_train_batch_end")
    whole, _ = fit(tmp_path, callbacks=[saver], train=train())
    for path, written in saver.saved[1::5]:
        rest, _ = fit(tmp_path, ckpt_path=path, seed=99, train=train())
        assert rest == whole[written:], path.name


LIMITS = [
    {"max_steps": 9},
    {"limit_train_batches": 5},
    {"check_val_every_n_epoch": 2},
    {"check_val_every_n_epoch": None, "val_check_interval": 5},
]


@pytest.mark.parametrize("arguments", LIMITS, ids=str)
def test_with_limits(tmp_path, arguments):
    saver = SaveAt(tmp_path, "on_train_batch_end")
    whole, _ = fit(tmp_path, callbacks=[saver], **arguments)
    for path, written in saver.saved[1::3]:
        rest, _ = fit(tmp_path, ckpt_path=path, seed=99, **arguments)
        assert rest == whole[written:], path.name


@pytest.mark.parametrize("hook", ["on_validation_end", "on_train_epoch_end"])
def test_of_one_name_in_training_and_validation_the_later_value_stays(tmp_path, hook):
    class Shared(Model):
        def training_step(self, batch, batch_idx):
            self.log("shared", float(batch_idx))
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            self.log("shared", -1.0)
            return super().validation_step(batch, batch_idx)

    save = SaveAt(tmp_path, hook)
    _, whole = fit(tmp_path, callbacks=[save], model=Shared, val_check_interval=1.0)
    _, resumed = fit(tmp_path, seed=2, model=Shared, val_check_interval=1.0, ckpt_path=save.saved[-1][0])
    assert whole.callback_metrics["shared"] == -1.0
    assert resumed.callback_metrics["shared"] == -1.0

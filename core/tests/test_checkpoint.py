"""What a checkpoint holds, that it is durable and intact, where it is, and who else can read it."""

import importlib
import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import leyden as pl
from leyden.utilities.exceptions import CheckpointCorruptedError, MisconfigurationException
from leyden_testing.models import LoggingModel, ValidatedModel, rows
from leyden_testing.training import SaveAmid, quiet_trainer, same_weights, weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A Trainer after a fit, for tests that only save and load."""
    trainer = quiet_trainer(tmp_path_factory.mktemp("trained"))
    trainer.fit(LoggingModel(), rows(2))
    return trainer


# -- intact and durable -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    """The bytes of a checkpoint and its weights."""
    path = tmp_path_factory.mktemp("saved") / "whole.ckpt"
    trained.save_checkpoint(path)
    return path.read_bytes(), weights(trained.lightning_module)


def load_damaged(path, data):
    path.write_bytes(data)
    return LoggingModel.load_from_checkpoint(path)


def test_a_torn_file_is_an_error(saved, tmp_path):
    whole, _ = saved
    moments = random.Random(0)
    for length in [0, 1, 100, len(whole) - 1, *(moments.randrange(len(whole)) for _ in range(30))]:
        with pytest.raises(CheckpointCorruptedError, match=r"torn\.ckpt"):
            load_damaged(tmp_path / "torn.ckpt", whole[:length])


def test_a_flipped_bit_is_an_error_or_changes_nothing(saved, tmp_path):
    whole, right = saved
    moments = random.Random(1)
    found = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[moments.randrange(len(whole))] ^= 1 << moments.randrange(8)
        try:
            loaded = load_damaged(tmp_path / "flipped.ckpt", bytes(damaged))
        except CheckpointCorruptedError:
            found += 1
        else:  # the bit was in the padding between records, or in a date
            assert same_weights(loaded, right)
    assert found > 100


def test_a_flipped_bit_in_an_open_file_is_an_error(saved, tmp_path):
    whole, right = saved
    path = tmp_path / "file.ckpt"
    path.write_bytes(whole)
    with path.open("rb") as file:
        assert same_weights(LoggingModel.load_from_checkpoint(file), right)
    position = whole.index(right["layer.weight"].numpy().tobytes())
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    with path.open("rb") as file, pytest.raises(CheckpointCorruptedError, match=r"file\.ckpt.*damaged"):
        LoggingModel.load_from_checkpoint(file)


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_no_stage_takes_a_damaged_checkpoint(saved, tmp_path, stage):
    model = ValidatedModel() if stage == "validate" else LoggingModel()
    path = tmp_path / "half.ckpt"
    path.write_bytes(saved[0][: len(saved[0]) // 2])
    with pytest.raises(CheckpointCorruptedError, match=r"half\.ckpt"):
        getattr(quiet_trainer(tmp_path), stage)(model, rows(1), ckpt_path=path)


@pytest.mark.parametrize("fails", ["os.replace", "os.fsync", "torch.save"])
def test_a_save_that_fails_leaves_the_old_checkpoint(trained, tmp_path, monkeypatch, fails):
    path = tmp_path / "last.ckpt"
    trained.save_checkpoint(path)
    before = path.read_bytes()
    module, name = fails.split(".")
    original = getattr(importlib.import_module(module), name)

    def fail(*args):
        if name == "save":
            args[1].write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fails, fail)
    with pytest.raises(OSError, match="No space left"):
        trained.save_checkpoint(path)
    monkeypatch.setattr(fails, original)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    LoggingModel.load_from_checkpoint(path)


def test_what_a_kill_left_half_written_is_written_over(trained, tmp_path, monkeypatch):
    beside = []

    def fail(part, path):
        beside.append(part)
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="killed"):
            trained.save_checkpoint(tmp_path / "last.ckpt")
    beside[0].write_bytes(b"half of it")
    trained.save_checkpoint(tmp_path / "last.ckpt")
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    LoggingModel.load_from_checkpoint(tmp_path / "last.ckpt")


# -- what it holds ------------------------------------------------------------------------------------------


class Stateful(LoggingModel):
    """Everything that a checkpoint can hold."""

    def __init__(self, width=3):
        super().__init__()
        self.save_hyperparameters()

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]

    def on_save_checkpoint(self, checkpoint):
        checkpoint["mine"] = self.global_step

    def on_load_checkpoint(self, checkpoint):
        self.loaded = checkpoint["mine"]


class CountingData(pl.LightningDataModule):
    def __init__(self, size=2):
        super().__init__()
        self.save_hyperparameters()
        self.seen = 0

    def train_dataloader(self):
        return rows(2)

    def state_dict(self):
        return {"seen": 7}

    def load_state_dict(self, state_dict):
        self.seen = state_dict["seen"]


class BatchCounter(pl.Callback):
    def __init__(self, name):
        self.name, self.count = name, 0

    @property
    def state_key(self):
        return f"BatchCounter-{self.name}"

    def on_train_batch_end(self, *args):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


def test_keys_of_a_checkpoint(tmp_path):
    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=[BatchCounter("a")])
    trainer.fit(Stateful(), datamodule=CountingData())
    trainer.save_checkpoint(tmp_path / "all.ckpt")
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    everything = torch.load(tmp_path / "all.ckpt", weights_only=True)
    only = torch.load(tmp_path / "weights.ckpt", weights_only=True)
    training = {"optimizer_states", "lr_schedulers", "callbacks", "leyden"}
    assert everything.keys() - only.keys() == training
    assert {
        "epoch": 2, "global_step": 4, "hyper_parameters": {"width": 3}, "hparams_name": "kwargs",
        "datamodule_hyper_parameters": {"size": 2}, "CountingData": {"seen": 7}, "mine": 4,
    }.items() <= everything.items()  # fmt: skip
    assert everything["callbacks"] == {"BatchCounter-a": {"count": 4}}
    assert everything["optimizer_states"][0]["state"][0]["step"] == 4
    assert everything["lr_schedulers"][0]["last_epoch"] == 2
    assert everything["leyden"]["ranks"][0]["fit"]["progress"]["epoch"] == 2


def test_plugins_add_to_weights_alone_too_and_callbacks_do_not(tmp_path):
    class Noting(pl.Callback):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            checkpoint["callback's"] = 1

    @pl.hookimpl
    def on_save_checkpoint(trainer, pl_module, checkpoint):
        checkpoint["plugin's"] = [trainer.global_step, pl_module.hparams["width"], "mine" in checkpoint]

    plugin = SimpleNamespace(on_save_checkpoint=on_save_checkpoint)
    trainer = quiet_trainer(tmp_path, callbacks=[Noting()], plugins=plugin)
    trainer.fit(Stateful(), rows(2))
    for weights_only in (False, True):
        trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=weights_only)
        saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
        assert saved["plugin's"] == [2, 3, False]
        assert ("callback's" in saved) is not weights_only


def test_a_fit_takes_everything_back(tmp_path):
    first = quiet_trainer(tmp_path, callbacks=[BatchCounter("a"), BatchCounter("b")])
    first.fit(Stateful(), datamodule=CountingData())
    first.save_checkpoint(tmp_path / "one.ckpt")
    model, data, counters = Stateful(), CountingData(), [BatchCounter("b"), BatchCounter("a")]
    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=counters)
    trainer.fit(model, datamodule=data, ckpt_path=tmp_path / "one.ckpt")
    assert (trainer.current_epoch, trainer.global_step) == (2, 4)
    assert (model.loaded, data.seen, [c.count for c in counters]) == (2, 7, [4, 4])
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1 * 0.5**2
    assert trainer.optimizers[0].state_dict()["state"][0]["step"] == 4


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_takes_weights_and_no_training_state(tmp_path, stage):
    class Model(Stateful, ValidatedModel):
        pass

    first = quiet_trainer(tmp_path)
    first.fit(Model(), rows(2), rows(1))
    first.save_checkpoint(tmp_path / "one.ckpt")
    model, trainer = Model(), quiet_trainer(tmp_path)
    getattr(trainer, stage)(model, rows(1), ckpt_path=tmp_path / "one.ckpt")
    assert same_weights(model, first.lightning_module)
    assert model.loaded == 2
    assert (trainer.current_epoch, trainer.global_step) == (0, 0)


def test_states_of_callbacks_that_are_gone_are_named(tmp_path):
    first = quiet_trainer(tmp_path, callbacks=[BatchCounter("gone")])
    first.fit(LoggingModel(), rows(1))
    first.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="BatchCounter-gone"):
        quiet_trainer(tmp_path, max_epochs=2).fit(LoggingModel(), rows(1), ckpt_path=tmp_path / "a.ckpt")


def test_what_does_not_fit_is_refused(tmp_path):
    first = quiet_trainer(tmp_path)
    first.fit(LoggingModel(), rows(1))
    first.save_checkpoint(tmp_path / "a.ckpt")
    first.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)

    class Larger(LoggingModel):
        def __init__(self):
            super().__init__()
            self.more = nn.Linear(1, 1)

    with pytest.raises(RuntimeError, match=r"more\.weight"):
        quiet_trainer(tmp_path).fit(Larger(), rows(1), ckpt_path=tmp_path / "a.ckpt")
    with pytest.raises(MisconfigurationException, match="1 optimizers and 0 schedulers"):
        quiet_trainer(tmp_path).fit(_with_scheduler(), rows(1), ckpt_path=tmp_path / "a.ckpt")
    with pytest.raises(MisconfigurationException, match="weights alone"):
        quiet_trainer(tmp_path).fit(LoggingModel(), rows(1), ckpt_path=tmp_path / "weights.ckpt")
    larger = Larger()
    larger.strict_loading = False
    quiet_trainer(tmp_path).test(larger, rows(1), ckpt_path=tmp_path / "a.ckpt")
    assert torch.equal(larger.layer.weight, first.lightning_module.layer.weight)


def _with_scheduler():
    model = LoggingModel()

    def configure_optimizers():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    model.configure_optimizers = configure_optimizers
    return model


# -- where it is --------------------------------------------------------------------------------------------


def test_save_before_any_run_is_refused(tmp_path):
    with pytest.raises(AttributeError, match="fit"):
        quiet_trainer(tmp_path).save_checkpoint(tmp_path / "a.ckpt")


def test_directories_are_made_and_paths_may_be_text_or_urls(trained, tmp_path):
    for path in (tmp_path / "a" / "b" / "x.ckpt", str(tmp_path / "c" / "x.ckpt"), f"file://{tmp_path}/d/x.ckpt"):
        trained.save_checkpoint(path)
        assert same_weights(LoggingModel.load_from_checkpoint(path), trained.lightning_module)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.ckpt")) == [
        "a/b/x.ckpt", "c/x.ckpt", "d/x.ckpt",
    ]  # fmt: skip


def test_remote_file_systems(trained, tmp_path):
    path = "memory://runs/x.ckpt"
    trained.save_checkpoint(path)
    assert same_weights(LoggingModel.load_from_checkpoint(path), trained.lightning_module)
    model = LoggingModel()
    quiet_trainer(tmp_path).test(model, rows(1), ckpt_path=path)
    assert same_weights(model, trained.lightning_module)


def finding(found):
    """A plugin that knows names of checkpoints."""
    return SimpleNamespace(leyden_find_checkpoint=pl.hookimpl(lambda ckpt_path: found.get(ckpt_path)))


def test_a_plugin_knows_names_of_checkpoints(trained, tmp_path):
    path = tmp_path / "x.ckpt"
    trained.save_checkpoint(path)
    trainer = quiet_trainer(tmp_path, plugins=finding({"shelf:x": str(path), None: str(path), "shelf:empty": ""}))
    model = LoggingModel()
    trainer.test(model, rows(1), ckpt_path="shelf:x")
    assert same_weights(model, trained.lightning_module)
    own = weights(LoggingModel().double().float())
    for ckpt_path in ("shelf:empty", None):  # the weights as they are, since a model is given
        model.load_state_dict(own)
        trainer.test(model, rows(1), ckpt_path=ckpt_path)
        assert (trainer.ckpt_path, same_weights(model, own)) == (None, True)
    trainer.test(dataloaders=rows(1))
    assert same_weights(model, trained.lightning_module)
    trainer.fit(model, rows(1))
    assert trainer.ckpt_path == str(path)


@pytest.mark.parametrize(
    ("name", "distribution"), [("best", "leyden-callbacks"), ("last", "leyden-callbacks"), ("hpc", "leyden-ddp")]
)
def test_without_the_plugin_that_knows_a_name_it_is_named(tmp_path, name, distribution):
    trainer = quiet_trainer(tmp_path, plugins=finding({}))
    manager = trainer.plugin_manager
    for implementation in list(manager.hook.leyden_find_checkpoint.get_hookimpls()):
        manager.unregister(implementation.plugin)
    said = rf"^There is no checkpoint at ckpt_path='{name}'\. A plugin knows this name: pip install {distribution}\.$"
    with pytest.raises(FileNotFoundError, match=said):
        trainer.fit(LoggingModel(), rows(1), ckpt_path=name)


def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^There is no checkpoint at ckpt_path='none\.ckpt'\.$"):
        quiet_trainer(tmp_path).fit(LoggingModel(), rows(1), ckpt_path="none.ckpt")


# -- of another framework -----------------------------------------------------------------------------------


def foreign(trainer, path):
    """A checkpoint with the states of a run, and nothing that is Leyden's own or that a plugin knows."""
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)
    torch.save({key: saved[key] for key in ("state_dict", "optimizer_states", "lr_schedulers")}, path)
    return path


def reading(found):
    """A plugin that knows where fits of another framework stood."""
    return SimpleNamespace(leyden_read_progress=pl.hookimpl(lambda checkpoint: found))


@pytest.mark.parametrize(
    ("place", "left"),
    [
        ({"epoch": 1, "optimizer_steps": 5, "total_batches": 5}, 5),
        ({"epoch": 1, "batch_idx": 3, "optimizer_steps": 8, "total_batches": 8, "phase": "batch_done"}, 2),
        ({"epoch": 1, "batch_idx": 3, "optimizer_steps": 7, "total_batches": 8, "phase": "batch"}, 3),
        ({}, 10),
    ],
)
def test_a_plugin_says_where_the_fit_of_another_framework_stood(trained, tmp_path, place, left):
    class Model(LoggingModel):
        trained_on = 0

        def on_train_batch_start(self, batch, batch_idx):
            self.trained_on += 1

    path = foreign(trained, tmp_path / "foreign.ckpt")
    model, trainer = Model(), quiet_trainer(tmp_path, max_epochs=2, plugins=reading(place))
    trainer.fit(model, rows(5), ckpt_path=path)
    assert model.trained_on == left
    assert (trainer.current_epoch, trainer.global_step) == (2, place.get("optimizer_steps", 0) + left)


@pytest.mark.parametrize("version", [2, 99])
def test_a_fit_is_not_resumed_from_what_another_version_keeps_of_it_and_weights_are_loaded(trained, tmp_path, version):
    path = tmp_path / "other.ckpt"
    trained.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["leyden"] = {"version": version}
    torch.save(checkpoint, path)
    with pytest.raises(
        MisconfigurationException, match=rf"it is of version {version}, and .* reads version \d+\. Resume"
    ):
        quiet_trainer(tmp_path).fit(LoggingModel(), rows(1), ckpt_path=path)
    model = LoggingModel()
    quiet_trainer(tmp_path).test(model, rows(1), ckpt_path=path)
    assert same_weights(model, trained.lightning_module)


def test_what_earlier_versions_keep_of_a_fit_is_translated_version_by_version(tmp_path, monkeypatch):
    """As if the counters had been called "counters" once, and the ranks "processes" before that."""

    def to_now(own):
        ranks = [{**rank, "fit": {**rank["fit"], "progress": rank["fit"]["counters"]}} for rank in own["ranks"]]
        return {**own, "ranks": ranks}

    def to_last(own):
        return {**own, "ranks": own["processes"]}

    path, whole = tmp_path / "old.ckpt", ValidatedModel()
    quiet_trainer(tmp_path, max_epochs=2, callbacks=[SaveAmid(path, 3)]).fit(whole, rows(4), rows(1))
    checkpoint = torch.load(path, weights_only=True)
    now, ranks = checkpoint["leyden"]["version"], checkpoint["leyden"].pop("ranks")
    for rank in ranks:
        rank["fit"]["counters"] = rank["fit"].pop("progress")
    checkpoint["leyden"].update(version=now - 2, processes=ranks)
    torch.save(checkpoint, path)
    monkeypatch.setattr("leyden.checkpoint.contents.TRANSLATIONS", {now - 2: to_last, now - 1: to_now})
    model, trainer = ValidatedModel(), quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(model, rows(4), rows(1), ckpt_path=path)
    assert (trainer.current_epoch, trainer.global_step) == (2, 8)
    assert same_weights(model, whole)


@pytest.mark.parametrize("known", [True, False])
def test_where_no_plugin_knows_that_a_fit_is_not_resumed_and_weights_are_loaded(trained, tmp_path, known):
    path = foreign(trained, tmp_path / "foreign.ckpt")
    trainer = quiet_trainer(tmp_path, plugins=reading(None))
    hook = trainer.plugin_manager.hook.leyden_read_progress
    if not known:
        for implementation in list(hook.get_hookimpls()):
            trainer.plugin_manager.unregister(implementation.plugin)
    advice = "" if known else r" \(for Lightning's: pip install leyden-lightning\)"
    with pytest.raises(
        MisconfigurationException,
        match=rf"no installed plugin knows .* come{advice}\. Install one, or load its weights",
    ):
        trainer.fit(LoggingModel(), rows(1), ckpt_path=path)
    model = LoggingModel()
    quiet_trainer(tmp_path).test(model, rows(1), ckpt_path=path)
    for loaded in (model, LoggingModel.load_from_checkpoint(path)):
        assert same_weights(loaded, trained.lightning_module)

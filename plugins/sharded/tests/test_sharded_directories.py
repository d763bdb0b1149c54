"""Sharded checkpoints as directories: whole or refused, replaced without a gap, turned into files and back."""

import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from leyden.callbacks import ModelCheckpoint
from leyden.plugins import TorchCheckpointIO
from leyden.utilities.exceptions import CheckpointCorruptedError, MisconfigurationException
from leyden_sharded import directory
from leyden_sharded.background import Background, RemovingLater
from leyden_sharded.consolidate import main
from leyden_testing import training
from leyden_testing.ranks import on_ranks
from leyden_testing.training import loader, same_weights

from .sharded_model import STRATEGIES, Model, quiet


def sharded(**options):
    return STRATEGIES["zero_3 by layer"](state_dict_type="sharded", **options)


def fit_and_save(root, devices, names=("run.ckpt",), strategy=sharded):
    """Train, and save under each name; returns the weights."""
    model = Model(torch.optim.Adam)
    trainer = quiet(root, strategy(), devices)
    trainer.fit(model, loader(8), loader(4))
    for name in names:
        trainer.save_checkpoint(root / name)
    return training.weights(model)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint by two processes, and its weights."""
    root = tmp_path_factory.mktemp("saved")
    return root / "run.ckpt", on_ranks(2, fit_and_save, root, 2)[0]


@pytest.fixture
def copied(saved, tmp_path):
    """One of one's own to damage."""
    shutil.copytree(saved[0], tmp_path / "run.ckpt")
    return tmp_path / "run.ckpt"


def validate(root, devices, path, strategy=sharded):
    """The weights after loading, or what is said of the checkpoint."""
    model = Model()
    try:
        quiet(root, strategy(), devices).validate(model, loader(4), ckpt_path=path, verbose=False)
    except (CheckpointCorruptedError, RuntimeError) as error:
        return str(error)
    return training.weights(model)


def test_a_directory_has_a_file_of_each_process_and_nothing_unfinished(saved):
    path, _ = saved
    names = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert names == {"leyden.ckpt", "shards-1/.metadata", "shards-1/__0_0.distcp", "shards-1/__1_0.distcp"}
    assert set(torch.load(path / "leyden.ckpt", weights_only=True)) == {"checkpoint", "shards"}


def assert_refused(tmp_path, path, *words):
    for said in on_ranks(2, validate, tmp_path, 2, path):
        assert isinstance(said, str)
        assert all(word in said for word in words), said


def test_a_missing_shard_is_named(tmp_path, copied):
    (copied / "shards-1" / "__1_0.distcp").unlink()
    assert_refused(tmp_path, copied, "__1_0.distcp", "missing", str(copied))


def test_an_altered_shard_is_named(tmp_path, copied, saved):
    shard = copied / "shards-1" / "__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[content.index(saved[1]["layers.0.weight"][0].numpy().tobytes())] ^= 1
    shard.write_bytes(content)
    assert_refused(tmp_path, copied, "__0_0.distcp", "not what was written")


def test_an_unfinished_checkpoint_is_refused(tmp_path, copied):
    (copied / "leyden.ckpt").unlink()
    assert_refused(tmp_path, copied, "leyden.ckpt", "never finished")


@pytest.mark.parametrize("unfinished", [False, True])
def test_where_a_file_is_needed_it_is_named_with_the_command_that_makes_one(tmp_path, copied, unfinished):
    if unfinished:
        (copied / "leyden.ckpt").unlink()
    said = (
        r"run\.ckpt' is a directory: it is a sharded checkpoint, .*leyden_sharded\.consolidate .*run\.ckpt whole\.ckpt"
    )
    with pytest.raises(MisconfigurationException, match=said):
        Model.load_from_checkpoint(copied)
    with pytest.raises(MisconfigurationException, match=said):
        quiet(tmp_path, "auto", 1).validate(Model(), loader(4), ckpt_path=copied)


def test_a_distributed_checkpoint_of_pytorch_is_named(copied):
    (copied / "shards-1").rename(copied.parent / "others")
    assert_refused(copied.parent, copied.parent / "others", "is a directory: it is a distributed", "dcp_to_torch")


def test_another_directory_is_not_said_to_be_sharded(tmp_path):
    (tmp_path / "shards-of-glass").mkdir()
    assert directory.describe(str(tmp_path)) is None
    assert directory.describe(str(tmp_path / "none")) is None


@pytest.mark.parametrize("name", ["../others/shards-1", "shards-1/../../others", "/etc", 1, None])
def test_a_directory_that_names_shards_elsewhere_is_refused(copied, name):
    stored = torch.load(copied / "leyden.ckpt", weights_only=True)
    torch.save({**stored, "shards": name}, copied / "leyden.ckpt")
    with pytest.raises(CheckpointCorruptedError, match="or does not name its shards"):
        directory.open_directory(str(copied))


def test_metadata_that_names_files_elsewhere_is_refused(copied):
    with (copied / "shards-1" / ".metadata").open("rb") as file:
        metadata = pickle.load(file)
    next(iter(metadata.storage_data.values())).relative_path = "../../secret"
    (copied / "shards-1" / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointCorruptedError, match=r"names files elsewhere \('\.\./\.\./secret'\)"):
        directory.open_directory(str(copied))


def test_a_directory_whose_state_is_no_checkpoint_is_refused(copied):
    stored = torch.load(copied / "leyden.ckpt", weights_only=True)
    for content in (None, [1], {"epoch": 1}, {**stored, "checkpoint": [1]}):
        torch.save(content, copied / "leyden.ckpt")
        with pytest.raises(CheckpointCorruptedError, match=r"run\.ckpt' is none of a sharded checkpoint"):
            directory.open_directory(str(copied))


def test_two_runs_that_save_to_one_path_write_shards_of_their_own(tmp_path):
    path = str(tmp_path / "run.ckpt")
    first, second = directory.new_shards(path), directory.new_shards(path)
    (tmp_path / "run.ckpt" / "shards-of-glass").mkdir()
    for shards, names in ((first, ["leyden.ckpt", "shards-1", "shards-2"]), (second, ["leyden.ckpt", "shards-2"])):
        directory.save_alone({"a": torch.ones(2)}, shards)
        directory.finish(path, {"state_dict": {"a": directory.stand_in("a")}}, shards)
        assert sorted(os.listdir(path)) == [*names, "shards-of-glass"]
        assert directory.put_back(*directory.open_directory(path))["state_dict"]["a"].tolist() == [1, 1]
    with pytest.raises(FileNotFoundError, match="shards-1' is gone: another run saves to"):
        directory.finish(path, {}, first)
    assert directory.put_back(*directory.open_directory(path))["state_dict"]["a"].tolist() == [1, 1]


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_metadata_that_would_run_code_is_refused(tmp_path, copied, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (copied / "shards-1" / ".metadata").write_bytes(pickle.dumps(Harmful()))
    assert_refused(tmp_path, copied, ".metadata", "mkdir")
    assert not Path("harm").exists()


def test_a_checkpoint_of_another_model_is_refused_with_its_keys(tmp_path, saved):
    def load():
        model = Model()
        model.layers[2] = torch.nn.Linear(9, 2, bias=False)
        with pytest.raises(RuntimeError, match=r"Unexpected key.*layers\.2\.bias"):
            quiet(tmp_path, sharded(), 2).validate(model, loader(4), ckpt_path=saved[0], verbose=False)
        model = Model()
        model.layers[2] = torch.nn.Linear(9, 3)
        with pytest.raises(RuntimeError, match=r"size mismatch for layers\.2\.weight"):
            quiet(tmp_path, sharded(), 2).validate(model, loader(4), ckpt_path=saved[0], verbose=False)

    on_ranks(2, load)


def test_what_a_killed_save_leaves_is_passed_over_and_removed_by_the_next(tmp_path, copied, saved):
    shutil.copytree(copied / "shards-1", copied / "shards-2")
    (copied / "shards-2" / ".metadata").unlink()
    assert same_weights(on_ranks(2, validate, tmp_path, 2, copied)[0], saved[1])
    assert same_weights(on_ranks(2, fit_and_save, tmp_path, 2)[0], saved[1])
    assert sorted(path.name for path in copied.iterdir()) == ["leyden.ckpt", "shards-3"]


def both_kinds_at_one_place(root):
    """A file is replaced by a directory, and the directory by a file."""
    kinds = []
    for strategy in (STRATEGIES["zero_3"], sharded, STRATEGIES["zero_3"]):
        weights = fit_and_save(root, 2, strategy=strategy)
        kinds.append((root / "run.ckpt").is_dir())
        assert same_weights(validate(root, 2, root / "run.ckpt", strategy), weights)
    return kinds


def test_a_file_and_a_directory_replace_each_other(tmp_path):
    assert on_ranks(2, both_kinds_at_one_place, tmp_path)[0] == [False, True, False]
    assert [path.name for path in tmp_path.iterdir()] == ["run.ckpt"]


def save_over_a_foreign_directory(root):
    with pytest.raises(IsADirectoryError, match="no sharded checkpoint, so it is not replaced"):
        fit_and_save(root, 1, ["mine"], STRATEGIES["zero_3"])


def test_a_directory_that_is_no_checkpoint_is_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("…")
    on_ranks(1, save_over_a_foreign_directory, tmp_path)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "…"


def keep_the_best(root, is_async):
    """ModelCheckpoint removes directories as it removes files."""
    callback = ModelCheckpoint(root / "kept", monitor="val_loss", save_last=True)
    model = Model()
    trainer = quiet(
        root, sharded(async_save=is_async), 2, callbacks=[callback], max_epochs=3, enable_checkpointing=True
    )
    trainer.fit(model, loader(8), loader(4))
    best = callback.best_model_path
    results = trainer.test(model, loader(4), ckpt_path="best", verbose=False)
    return os.path.basename(best), float(callback.best_model_score), results[0]["test_loss"]


@pytest.mark.parametrize("is_async", [False, True])
def test_the_checkpoint_callback_keeps_the_best_directory(tmp_path, is_async):
    for best, score, tested in on_ranks(2, keep_the_best, tmp_path, is_async):
        assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == sorted([best, "last.ckpt"])
        assert tested == pytest.approx(score)


# -- saving in the background -----------------------------------------------------------------------------------


def fail_to_finish(root):
    """The disk is full when the background save ends."""

    def full(*_):
        raise OSError("no space left")

    directory.finish = full
    model = Model()
    callback = ModelCheckpoint(root, save_top_k=-1)
    strategy = sharded(async_save=True)
    trainer = quiet(root, strategy, 2, callbacks=[callback], max_epochs=2, enable_checkpointing=True)
    with pytest.raises(BaseException, match="no space left"):
        trainer.fit(model, loader(8), loader(4))
    return list(root.rglob("leyden.ckpt"))


def test_a_background_save_that_fails_is_said(tmp_path):
    assert on_ranks(2, fail_to_finish, tmp_path) == [[], []]


def fail_beside_a_save(root):
    """The disk is full when the background save ends, and the run fails for a reason of its own."""

    def full(*_):
        raise OSError("no space left")

    class Failing(Model):
        def training_step(self, batch, batch_idx):
            if self.current_epoch == 1:
                raise ArithmeticError("the step can't be computed")
            return super().training_step(batch, batch_idx)

    directory.finish = full
    callback = ModelCheckpoint(root, save_top_k=-1)
    trainer = quiet(root, sharded(async_save=True), 2, callbacks=[callback], max_epochs=2, enable_checkpointing=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(BaseException, match="can't be computed"):
            trainer.fit(Failing(), loader(8), loader(4))
    return [str(warning.message) for warning in said if "not whole" in str(warning.message)]


def test_a_background_save_that_fails_in_a_failed_run_is_a_warning_beside_the_runs_own_error(tmp_path):
    said = on_ranks(2, fail_beside_a_save, tmp_path)
    assert said == [["The checkpoint that was being saved is not whole: no space left"], []]


def test_nothing_is_removed_after_a_save_that_failed(tmp_path):
    background, storage = Background(), TorchCheckpointIO()
    old = tmp_path / "old.ckpt"
    storage.save_checkpoint({}, str(old))
    background.add(int, "no number")
    RemovingLater(storage, lambda: background).remove_checkpoint(str(old))
    with pytest.raises(ValueError, match="no number"):
        background.wait()
    assert old.exists()
    RemovingLater(storage, lambda: background).remove_checkpoint(str(old))
    background.wait()
    assert not old.exists()


# -- one form into the other ------------------------------------------------------------------------------------


def test_a_directory_becomes_a_file_that_every_strategy_loads_and_a_directory_again(tmp_path, saved, capfd):
    path, weights = saved
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "leyden_sharded.consolidate",
        str(path),
        str(tmp_path / "whole.ckpt"),
    ]
    subprocess.run(command, check=True)
    checkpoint = torch.load(tmp_path / "whole.ckpt", weights_only=True)
    assert same_weights(checkpoint["state_dict"], weights)
    assert set(checkpoint["optimizer_states"][0]["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert same_weights(validate(tmp_path, 1, tmp_path / "whole.ckpt", lambda: "auto"), weights)
    assert main([str(tmp_path / "whole.ckpt"), str(tmp_path / "again.ckpt")]) == 0
    assert same_weights(on_ranks(2, validate, tmp_path, 2, tmp_path / "again.ckpt")[0], weights)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("none.ckpt", "new.ckpt", "There is no checkpoint"),
        ("run.ckpt", "taken.ckpt", "There is something"),
        ("broken.ckpt", "new.ckpt", "__0_0.distcp of 2 shards is missing"),
        ("taken.ckpt", "new.ckpt", "no checkpoint of a model"),
        ("list.ckpt", "new.ckpt", "no checkpoint of a run"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, copied, capsys, source, target, said):
    TorchCheckpointIO().save_checkpoint({"state_dict": {}}, str(tmp_path / "taken.ckpt"))
    torch.save([1], tmp_path / "list.ckpt")
    shutil.copytree(copied, tmp_path / "broken.ckpt")
    (tmp_path / "broken.ckpt" / "shards-1" / "__0_0.distcp").unlink()
    assert main([str(tmp_path / source), str(tmp_path / target)]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new.ckpt").exists()

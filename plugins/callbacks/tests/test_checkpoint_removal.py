"""ModelCheckpoint removes what is its own, whatever a checkpoint says; Lightning removes what the checkpoint says."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import leyden
from leyden.callbacks import ModelCheckpoint

FIELDS = ["last_model_path", "best_model_path", "kth_best_model_path"]
pytestmark = pytest.mark.filterwarnings("ignore:.*exists and is not empty")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def checkpoint(directory: Any, field: str = "best_model_path", **options: Any) -> ModelCheckpoint:
    """A callback that will want to remove the path in this field of its state."""
    if field == "kth_best_model_path":
        return ModelCheckpoint(directory, monitor="score", mode="max", **options)
    return ModelCheckpoint(directory, save_last=True, **options)


@pytest.fixture
def resume(tmp_path: Path, small: Any) -> Any:
    """Trains an epoch, writes what a checkpoint of it would be with this path in its state, and resumes from that."""

    def do(field: str, named: str, directory: Any = tmp_path / "kept", plugins: Any = (), **options: Any) -> None:
        fit = {"model": small.make_model(leyden, [0.0, 1.0]), "plugins": list(plugins)}
        first = small.fit(leyden, tmp_path, [checkpoint(directory, field, **options)], max_epochs=1, **fit).trainer
        first.save_checkpoint(tmp_path / "altered.ckpt")
        saved = torch.load(tmp_path / "altered.ckpt", weights_only=True)
        (state,) = saved["callbacks"].values()
        del state["dirpath"]  # as if any directory were its own
        state[field] = named
        if field == "kth_best_model_path":
            state.update(best_k_models={named: torch.tensor(-1e9)}, kth_value=torch.tensor(-1e9))
        torch.save(saved, tmp_path / "altered.ckpt")
        second = checkpoint(directory, field, **options)
        fit["model"] = small.make_model(leyden, [2.0])
        small.fit(leyden, tmp_path, [second], max_epochs=2, ckpt_path=str(tmp_path / "altered.ckpt"), **fit)
        assert re.search(r"/epoch=1-step=12(-v\d)?\.ckpt$", second.best_model_path)

    return do


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "spelling",
    [
        "{}", "file://{}", "FILE://{}", "local://{}", "dir::local://{}", "simplecache::local://{}",
        "{kept}/../home/thesis", "file://{kept}/../home/thesis", "{kept}/epoch=../../home/thesis", "{kept}/..",
    ],
)  # fmt: skip
def test_what_a_state_names_outside_of_the_directory_stays(
    tmp_path: Path, resume: Any, field: str, spelling: str
) -> None:
    pytest.importorskip("fsspec")
    home = tmp_path / "home" / "thesis"
    home.mkdir(parents=True)
    (home / "epoch=0-step=6.ckpt").write_text("years of work")
    for named in (home, home / "epoch=0-step=6.ckpt"):
        resume(field, spelling.format(named, kept=tmp_path / "kept"))
        assert (home / "epoch=0-step=6.ckpt").read_text() == "years of work"


@pytest.mark.parametrize("field", FIELDS)
def test_what_does_not_look_like_its_checkpoints_stays(tmp_path: Path, resume: Any, field: str) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("notes.txt", "precious.ckpt", "epoch=9-step=99.ckpt.bak"):
        (kept / name).write_text("precious")
    (kept / "epoch=8-step=88.ckpt").mkdir()
    (kept / "epoch=8-step=88.ckpt" / "thesis.txt").write_text("precious")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "epoch=7-step=77.ckpt").write_text("precious")
    (kept / "epoch=").symlink_to(tmp_path / "elsewhere")
    before = set(names(kept))
    for name in (*names(kept), "epoch=/epoch=7-step=77.ckpt", "."):
        resume(field, str(kept / name))
        assert before <= set(names(kept))
    assert (kept / "epoch=8-step=88.ckpt" / "thesis.txt").exists()
    assert (tmp_path / "elsewhere" / "epoch=7-step=77.ckpt").exists()


@pytest.mark.parametrize("place", ["local", "remote"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_checkpoint_of_its_own_that_another_run_wrote_is_removed(
    tmp_path: Path, resume: Any, memory: Any, field: str, place: str
) -> None:
    directory = "memory://kept" if place == "remote" else str(tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    memory.makedirs("/kept")
    name = "last-v3.ckpt" if field == "last_model_path" else "epoch=0-step=6-v1.ckpt"
    for path in (tmp_path / "kept" / name, f"memory://kept/{name}"):
        with leyden.utilities.storage.replacing(path, "w") as file:
            file.write("old")
    resume(field, f"{directory}/{name}", directory)
    assert (tmp_path / "kept" / name).exists() is (place == "remote")
    assert memory.exists(f"/kept/{name}") is (place == "local")


@pytest.mark.parametrize("known", [True, False])
def test_a_directory_is_removed_only_if_a_plugin_knows_it_as_a_checkpoint(
    tmp_path: Path, resume: Any, known: bool
) -> None:
    sharded = tmp_path / "kept" / "epoch=0-step=5.ckpt"
    sharded.mkdir(parents=True)
    (sharded / "shard").touch()

    def describe(path: str) -> str | None:
        return "a checkpoint in shards" if known and Path(path, "shard").exists() else None

    resume("best_model_path", str(sharded), plugins=[describing(describe)])
    assert sharded.exists() is not known


def describing(describe: Any) -> Any:
    """A plugin that says what a directory is."""
    return SimpleNamespace(leyden_describe_checkpoint=leyden.hookimpl(describe))


@pytest.fixture
def memory() -> Any:
    """fsspec's file system in memory, empty."""
    fsspec = pytest.importorskip("fsspec")
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("spelling", ["memory://one/{}", "memory:///one/{}"])
@pytest.mark.parametrize("directory", ["memory://one", "memory://two"])
@pytest.mark.filterwarnings("ignore:The checkpoint directory changed")
def test_a_remote_file_that_a_run_resumed_from_stays(
    tmp_path: Path, small: Any, memory: Any, directory: str, spelling: str
) -> None:
    small.fit(leyden, tmp_path, [ModelCheckpoint("memory://one")], max_epochs=1)
    resumed_from = spelling.format("epoch=0-step=6.ckpt")
    small.fit(leyden, tmp_path, [ModelCheckpoint(directory)], max_epochs=3, ckpt_path=resumed_from)
    left = {path.strip("/") for path in memory.find("/")}
    assert left == {"one/epoch=0-step=6.ckpt", f"{directory[9:]}/epoch=2-step=18.ckpt"}


def test_a_star_in_a_name_is_no_pattern_and_what_is_in_a_remote_directory_stays(resume: Any, memory: Any) -> None:
    memory.pipe({"/kept/epoch=7-step=7.ckpt": b"", "/kept/epoch=0-step=6.ckpt/thesis.txt": b"precious"})
    for name in ("*-*.ckpt", "epoch=0-step=6.ckpt"):
        resume("best_model_path", f"memory://kept/{name}", "memory://kept")
    assert memory.exists("/kept/epoch=7-step=7.ckpt")
    assert memory.exists("/kept/epoch=0-step=6.ckpt/thesis.txt")


@pytest.mark.parametrize("spelling", ["file", "relative", "link"])
def test_the_file_that_a_run_resumed_from_stays_however_it_was_named(
    tmp_path: Path, small: Any, monkeypatch: Any, spelling: str
) -> None:
    monkeypatch.chdir(tmp_path)
    small.fit(leyden, tmp_path, [ModelCheckpoint("kept", save_last="link")], max_epochs=1)
    resumed_from = {
        "file": f"file://{tmp_path}/kept/epoch=0-step=6.ckpt",
        "relative": os.path.join("kept", "..", "kept", "epoch=0-step=6.ckpt"),
        "link": os.path.join("kept", "last.ckpt"),
    }[spelling]
    small.fit(leyden, tmp_path, [ModelCheckpoint("kept", save_last="link")], max_epochs=3, ckpt_path=resumed_from)
    assert {"epoch=0-step=6.ckpt", "epoch=2-step=18.ckpt"} <= set(names(tmp_path / "kept"))
    assert "epoch=1-step=12.ckpt" not in names(tmp_path / "kept")


@pytest.mark.parametrize("counted", [True, False])
def test_a_link_takes_the_place_of_no_directory_that_is_not_its_own(tmp_path: Path, small: Any, counted: bool) -> None:
    thesis = tmp_path / "kept" / "last.ckpt" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("precious")
    callback = ModelCheckpoint(tmp_path / "kept", save_last="link", enable_version_counter=counted)
    callback.last_model_path = str(thesis.parent)
    if counted:
        small.fit(leyden, tmp_path, [callback])
        assert os.readlink(tmp_path / "kept" / "last-v1.ckpt") == "epoch=1-step=12.ckpt"
    else:
        with pytest.raises(IsADirectoryError):
            small.fit(leyden, tmp_path, [callback])
    assert thesis.read_text() == "precious"

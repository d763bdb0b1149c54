"""ModelCheckpoint beside pytorch-lightning's: the same files, at the same steps, with the same state."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint

FALLING = [5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.25, 0.125]
MIXED = [3.0, 1.0, 2.0, 0.5, 4.0, 0.25, 6.0, 7.0]
BROKEN = [3.0, float("nan"), 1.0, 2.0, float("nan"), 5.0, 0.0, 1.0]

# name: arguments of ModelCheckpoint, arguments of the run
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "best one": ({"monitor": "score"}, {"scores": MIXED, "max_epochs": 5}),
    "best two": ({"monitor": "score", "save_top_k": 2}, {"scores": MIXED, "max_epochs": 6}),
    "best two, largest": ({"monitor": "score", "save_top_k": 2, "mode": "max"}, {"scores": MIXED, "max_epochs": 6}),
    "nan": ({"monitor": "score", "save_top_k": 2}, {"scores": BROKEN, "max_epochs": 6}),
    "nan, largest": ({"monitor": "score", "save_top_k": 3, "mode": "max"}, {"scores": BROKEN, "max_epochs": 6}),
    "all": ({"save_top_k": -1}, {"max_epochs": 3}),
    "all, ranked": ({"save_top_k": -1, "monitor": "score"}, {"scores": MIXED, "max_epochs": 4}),
    "none": ({"save_top_k": 0}, {}),
    "last": ({"save_last": True}, {"max_epochs": 3}),
    "last when worse": ({"save_last": True, "monitor": "score"}, {"scores": MIXED, "max_epochs": 5}),
    "link": ({"save_last": "link"}, {"max_epochs": 3}),
    "link when worse": (
        {"save_last": "link", "monitor": "score", "save_top_k": 2},
        {"scores": MIXED, "max_epochs": 6},
    ),
    "metric of the epoch's end": ({"monitor": "train_end", "mode": "max"}, {"max_epochs": 3}),
    "steps": ({"every_n_train_steps": 4, "save_top_k": -1}, {"max_epochs": 3}),
    "steps, newest": ({"every_n_train_steps": 5, "save_last": True}, {"max_epochs": 3}),
    "steps, accumulating": (
        {"every_n_train_steps": 2, "save_top_k": -1},
        {"max_epochs": 3, "accumulate_grad_batches": 2},
    ),
    "steps, train metric": ({"every_n_train_steps": 4, "save_top_k": 2, "monitor": "train_loss"}, {"max_epochs": 3}),
    "steps before validation": (
        {"every_n_train_steps": 2, "save_top_k": -1, "monitor": "score"},
        {"scores": FALLING, "val_check_interval": 0.5},
    ),
    "steps beside validation": (
        {"every_n_train_steps": 4, "save_top_k": -1, "monitor": "score"},
        {"scores": FALLING, "val_check_interval": 3, "max_epochs": 3},
    ),
    "steps with an old metric": (
        {"every_n_train_steps": 3, "save_top_k": -1, "monitor": "score", "save_on_train_epoch_end": False},
        {"scores": FALLING, "max_epochs": 3},
    ),
    "steps, default moment": (
        {"every_n_train_steps": 3, "save_top_k": -1, "monitor": "score"},
        {"scores": FALLING, "max_epochs": 3},
    ),
    "epochs": ({"every_n_epochs": 2, "save_top_k": -1}, {"max_epochs": 5}),
    "epochs, last": ({"every_n_epochs": 2, "save_last": True}, {"max_epochs": 5}),
    "epochs at validation": (
        {"every_n_epochs": 2, "save_top_k": -1, "save_on_train_epoch_end": False},
        {"max_epochs": 6, "check_val_every_n_epoch": 3},
    ),
    "never by epoch": ({"every_n_epochs": 0}, {}),
    "time": ({"train_time_interval": timedelta(0), "save_top_k": -1}, {"max_epochs": 1}),
    "validation twice an epoch": ({"save_top_k": -1}, {"val_check_interval": 0.5}),
    "validation by batches": ({"save_top_k": -1}, {"val_check_interval": 4, "check_val_every_n_epoch": None}),
    "validation every other epoch": (
        {"save_top_k": -1, "monitor": "score"},
        {"scores": FALLING, "check_val_every_n_epoch": 2, "max_epochs": 5},
    ),
    "epoch's end, asked for": (
        {"save_top_k": -1, "save_on_train_epoch_end": True},
        {"val_check_interval": 0.5, "max_epochs": 3},
    ),
    "no validation": ({"save_top_k": -1}, {"validate": False}),
    "no validation batches": ({"save_top_k": -1}, {"limit_val_batches": 0, "val_check_interval": 0.5}),
    "every other epoch, no validation": ({}, {"validate": False, "check_val_every_n_epoch": 2}),
    "stopped in an epoch": ({"save_top_k": -1}, {"max_steps": 8, "max_epochs": -1}),
    "name": (
        {"filename": "m-{epoch:02d}-{score:.2f}-{absent}", "monitor": "score", "save_top_k": -1},
        {"scores": FALLING},
    ),
    "name of fields only": (
        {"filename": "e{epoch}_s{step:03d}_{train_loss:.1f}", "auto_insert_metric_name": False},
        {},
    ),
    "name in a directory": ({"filename": "{epoch}/{step}", "auto_insert_metric_name": False, "save_top_k": -1}, {}),
    "same name": ({"filename": "model", "monitor": "score", "save_top_k": 2}, {"scores": MIXED, "max_epochs": 6}),
    "same name, newest": ({"filename": "model"}, {"max_epochs": 3}),
    "same name, all": ({"filename": "model", "save_top_k": -1}, {"max_epochs": 3}),
    "same name, no versions": (
        {"filename": "model", "save_top_k": 2, "monitor": "score", "enable_version_counter": False},
        {"scores": FALLING, "max_epochs": 3},
    ),
    "weights only": ({"save_weights_only": True}, {}),
    "exception": ({"save_on_exception": True, "save_last": True}, {"fail_at": 8}),
    "exception, unasked": ({}, {"fail_at": 8}),
}


def run(library: Any, checkpoint: Any, root: Path, small: Any, arguments: dict[str, Any]) -> Any:
    options = dict(arguments)
    scores, fail_at = options.pop("scores", None), options.pop("fail_at", None)
    model = small.make_model(library, scores, fail_at, options.get("validate", True))
    return small.fit(library, root, [checkpoint], model=model, **options)


def tree(root: Path) -> dict[str, Any]:
    """Return every file under a directory with the counters in it, and every link with its target."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*.ckpt")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            content = torch.load(path, weights_only=True)
            found[name] = (content["epoch"], content["global_step"], "optimizer_states" in content)
    return found


def relative(state: Any, root: Path) -> Any:
    """Return a state with paths relative to ``root``."""
    if isinstance(state, dict):
        return {relative(key, root): relative(value, root) for key, value in state.items()}
    return os.path.relpath(state, root) if isinstance(state, str) and state.startswith(str(root)) else state


@pytest.mark.parametrize("case", CASES)
def test_same_files_and_state(case: str, tmp_path: Path, lightning: Any, small: Any) -> None:
    arguments, run_arguments = CASES[case]
    seen = {}
    for library, kind in ((leyden, ModelCheckpoint), (lightning, lightning.callbacks.ModelCheckpoint)):
        root = tmp_path / library.__name__
        checkpoint = kind(**arguments)
        result = run(library, checkpoint, root, small, run_arguments)
        seen[library.__name__] = {
            "written": result.written,
            "files": tree(root),
            "state": relative(small.plain(checkpoint.state_dict()), root),
            "state key": checkpoint.state_key,
            "error": type(result.error),
        }
    assert seen["leyden"] == seen["pytorch_lightning"]


def test_same_names_under_a_logger(tmp_path: Path, lightning: Any, small: Any) -> None:
    seen = {}
    for library, kind in ((leyden, ModelCheckpoint), (lightning, lightning.callbacks.ModelCheckpoint)):
        for version in (0, "second"):
            root = tmp_path / library.__name__
            logger = small.MemoryLogger(str(root / "logs"), "lightning_logs", version)
            checkpoint = kind()
            small.fit(library, root, [checkpoint], logger=logger, log_every_n_steps=1)
            saved = [os.path.relpath(path, root) for path in logger.saved]
            seen[library.__name__, version] = (tree(root), os.path.relpath(checkpoint.best_model_path, root), saved)
    for version in (0, "second"):
        assert seen["leyden", version] == seen["pytorch_lightning", version]
    assert seen["leyden", 0][1] == "logs/lightning_logs/version_0/checkpoints/epoch=1-step=12.ckpt"


def test_two_checkpoint_callbacks_and_early_stopping(tmp_path: Path, lightning: Any, small: Any) -> None:
    seen = {}
    scores = [1.0, 2.0, 3.0, 4.0]
    for library, kinds in (
        (leyden, (ModelCheckpoint, EarlyStopping)),
        (lightning, (lightning.callbacks.ModelCheckpoint, lightning.callbacks.EarlyStopping)),
    ):
        root = tmp_path / library.__name__
        best = kinds[0](monitor="score", filename="best-{epoch}")
        steps = kinds[0](every_n_train_steps=5, save_top_k=-1, filename="{step}")
        small.fit(
            library,
            root,
            [best, kinds[1]("score", patience=2), steps],
            model=small.make_model(library, scores),
            max_epochs=4,
        )
        newest = max(root.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        states = torch.load(newest, weights_only=True)["callbacks"]
        seen[library.__name__] = (tree(root), {key: relative(small.plain(s), root) for key, s in states.items()})
    assert seen["leyden"] == seen["pytorch_lightning"]


def test_a_state_of_lightning_is_taken_over(tmp_path: Path, lightning: Any, small: Any) -> None:
    theirs = lightning.callbacks.ModelCheckpoint(tmp_path / "kept", monitor="score", save_top_k=2)
    small.fit(lightning, tmp_path, [theirs], model=small.make_model(lightning, MIXED), max_epochs=3)
    states = torch.load(theirs.best_model_path, weights_only=True)["callbacks"]

    ours = ModelCheckpoint(tmp_path / "kept", monitor="score", save_top_k=2)
    ours.load_state_dict(states[ours.state_key])
    assert small.plain(ours.state_dict()) == small.plain(states[ours.state_key])
    assert ours.best_model_path == theirs.best_model_path

"""``ckpt_path="best"``, ``ckpt_path="last"`` and no ``ckpt_path``, for any callback with the role "checkpoint"."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden_testing.training import quiet_trainer

STAGES = ["fit", "validate", "test", "predict"]


class Keeper(leyden.Callback):
    """Knows a best and a last checkpoint."""

    role = "checkpoint"

    def __init__(self, best: Any = "", last: Any = "") -> None:
        self.best_model_path, self.last_model_path = str(best), str(last)

    @property
    def state_key(self) -> str:
        return f"Keeper{self.best_model_path}"


def make_trainer(root: Path, *callbacks: Any, **options: Any) -> leyden.Trainer:
    return quiet_trainer(root, callbacks=list(callbacks), enable_checkpointing=bool(callbacks), **options)


@pytest.fixture
def kept(tmp_path: Path, small: Any) -> Any:
    """The paths and weights of two checkpoints, "best" and "last"."""
    model, trainer = small.make_model(leyden, validates=False), make_trainer(tmp_path)
    paths, weights = {}, {}
    for name in ("best", "last"):
        trainer.fit_loop.max_epochs = len(paths) + 1
        trainer.fit(model, small.make_loader())
        paths[name], weights[name] = tmp_path / f"{name}.ckpt", model.layer.weight.clone()
        trainer.save_checkpoint(paths[name])
    assert not torch.equal(weights["best"], weights["last"])
    return SimpleNamespace(paths=paths, weights=weights)


@pytest.mark.parametrize("name", ["best", "last"])
def test_the_names_of_what_a_callback_keeps(tmp_path: Path, small: Any, kept: Any, name: str) -> None:
    trainer = make_trainer(tmp_path, Keeper(kept.paths["best"], kept.paths["last"]))
    model = small.make_model(leyden)
    trainer.test(model, small.make_loader(1), ckpt_path=name, verbose=False)
    assert torch.equal(model.layer.weight, kept.weights[name])
    assert trainer.ckpt_path == str(kept.paths[name])


def test_without_a_model_the_best_weights_are_taken_and_that_is_said(
    tmp_path: Path, small: Any, kept: Any, said: list[str]
) -> None:
    trainer = make_trainer(tmp_path, Keeper(kept.paths["best"], kept.paths["last"]))
    model = small.make_model(leyden)
    trainer.test(model, small.make_loader(1), verbose=False)
    assert trainer.ckpt_path is None
    trainer.test(dataloaders=small.make_loader(1), verbose=False)
    assert torch.equal(model.layer.weight, kept.weights["best"])
    assert f"uses the best weights of the last fit, '{kept.paths['best']}'" in said[-1]


def test_without_a_model_and_a_best_the_weights_stay_as_they_are(tmp_path: Path, small: Any) -> None:
    trainer, model = make_trainer(tmp_path, Keeper()), small.make_model(leyden)
    trainer.test(model, small.make_loader(1), verbose=False)
    trainer.test(dataloaders=small.make_loader(1), verbose=False)
    assert trainer.ckpt_path is None


def test_the_newest_of_several_last_ones_is_taken(tmp_path: Path, small: Any, kept: Any) -> None:
    os.utime(kept.paths["last"], (1, 1))
    trainer = make_trainer(tmp_path, Keeper(last=kept.paths["last"]), Keeper("other", kept.paths["best"]))
    trainer.test(small.make_model(leyden), small.make_loader(1), ckpt_path="last", verbose=False)
    assert trainer.ckpt_path == str(kept.paths["best"])


def test_of_several_callbacks_the_first_one_s_best_is_taken_and_that_is_said(
    tmp_path: Path, small: Any, kept: Any
) -> None:
    trainer = make_trainer(tmp_path, Keeper(kept.paths["best"]), Keeper(kept.paths["last"]))
    with pytest.warns(UserWarning, match="uses the first of 2 checkpoint callbacks"):
        trainer.test(small.make_model(leyden), small.make_loader(1), ckpt_path="best", verbose=False)
    assert trainer.ckpt_path == str(kept.paths["best"])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("callbacks", "options", "said"),
    [
        ([], {}, "needs a checkpoint callback, and this Trainer has none"),
        ([Keeper()], {}, "has saved nothing yet; call fit first"),
        ([Keeper("x")], {"fast_dev_run": True}, "can't be used with fast_dev_run"),
    ],
    ids=["no callback", "nothing saved", "fast_dev_run"],
)
def test_best_of_nothing(
    tmp_path: Path, small: Any, stage: str, callbacks: list[Any], options: dict[str, Any], said: str
) -> None:
    trainer, model = make_trainer(tmp_path, *callbacks, **options), small.make_model(leyden, validates=stage != "fit")
    with pytest.raises(ValueError, match=f'^ckpt_path="best".* ?{said}'):
        getattr(trainer, stage)(model, small.make_loader(1), ckpt_path="best")


def test_last_without_any_starts_anew_and_says_so(tmp_path: Path, small: Any) -> None:
    trainer = make_trainer(tmp_path)
    with pytest.warns(UserWarning, match='"last"'):
        trainer.fit(small.make_model(leyden, validates=False), small.make_loader(2), ckpt_path="last")
    assert trainer.global_step == 2


def test_the_best_of_an_earlier_process(tmp_path: Path, small: Any, said: list[str]) -> None:
    """Lightning knows of none before its own fit."""

    def checkpoint() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / "kept", monitor="score", save_top_k=2)

    small.fit(leyden, tmp_path, [checkpoint()], model=small.make_model(leyden, [1.0, 2.0, 3.0]), max_epochs=3)
    again = make_trainer(tmp_path, checkpoint())
    again.test(small.make_model(leyden), small.make_loader(1), ckpt_path="best", verbose=False)
    best = str(tmp_path / "kept" / "epoch=0-step=6.ckpt")
    assert again.ckpt_path == again.checkpoint_callback.best_model_path == best
    assert f'ckpt_path="best" is {best!r}, of an earlier run.' in said


def test_of_a_path_in_a_checkpoint_only_the_name_counts(tmp_path: Path, small: Any) -> None:
    """So that a file decides nothing about other directories."""
    checkpoint, kept = ModelCheckpoint(tmp_path / "kept", save_top_k=-1), tmp_path / "kept"
    small.fit(leyden, tmp_path, [checkpoint])
    newest = torch.load(kept / "epoch=1-step=12.ckpt")
    for named, found in (("/elsewhere/epoch=0-step=6.ckpt", True), ("/elsewhere/other.ckpt", False)):
        newest["callbacks"][checkpoint.state_key]["best_model_path"] = named
        torch.save(newest, kept / "epoch=1-step=12.ckpt")
        again, model = make_trainer(tmp_path, ModelCheckpoint(kept, save_top_k=-1)), small.make_model(leyden)
        if found:
            again.test(model, small.make_loader(1), ckpt_path="best", verbose=False)
            assert again.ckpt_path == str(kept / "epoch=0-step=6.ckpt")
        else:
            with pytest.raises(
                ValueError, match="does not say which of the 2 checkpoints in its directory is the best"
            ):
                again.test(model, small.make_loader(1), ckpt_path="best", verbose=False)


def test_the_best_of_weights_alone_is_known_if_there_is_one(tmp_path: Path, small: Any) -> None:
    options = {"dirpath": tmp_path / "kept", "save_weights_only": True}
    small.fit(leyden, tmp_path, [ModelCheckpoint(**options)])
    again = make_trainer(tmp_path, ModelCheckpoint(**options))
    again.test(small.make_model(leyden), small.make_loader(1), ckpt_path="best", verbose=False)
    assert again.ckpt_path == str(tmp_path / "kept" / "epoch=1-step=12.ckpt")


def test_without_save_last_the_newest_of_the_callback_s_own_is_the_last(tmp_path: Path, small: Any) -> None:
    """Lightning starts anew."""
    small.fit(leyden, tmp_path, [ModelCheckpoint(tmp_path / "kept", save_top_k=-1)])
    os.utime(tmp_path / "kept" / "epoch=0-step=6.ckpt", (1, 1))
    (tmp_path / "kept" / "mine.ckpt").write_text("of another name, and newer")
    with pytest.warns(UserWarning, match="not empty"):
        again = small.fit(leyden, tmp_path, [ModelCheckpoint(tmp_path / "kept")], max_epochs=3, ckpt_path="last")
    assert again.trainer.ckpt_path == str(tmp_path / "kept" / "epoch=1-step=12.ckpt")


def test_weights_alone_are_no_last_checkpoint(tmp_path: Path, small: Any) -> None:
    options = {"dirpath": tmp_path / "kept", "save_weights_only": True}
    small.fit(leyden, tmp_path, [ModelCheckpoint(**options)])
    with pytest.warns(UserWarning, match="not empty|no last checkpoint was found"):
        again = small.fit(leyden, tmp_path, [ModelCheckpoint(**options)], ckpt_path="last")
    assert again.trainer.ckpt_path is None


def test_the_newest_last_of_earlier_versions(tmp_path: Path, small: Any, said: list[str]) -> None:
    class Numbered(small.MemoryLogger):  # type: ignore[misc]
        def earlier_versions(self) -> list[int]:
            return [2, 1, 0]

    for version, last in enumerate((True, True, False)):
        logger = small.MemoryLogger(str(tmp_path), version=version)
        small.fit(leyden, tmp_path, [ModelCheckpoint(save_last=last)], logger=logger, log_every_n_steps=1)
    kept = [tmp_path / "runs" / f"version_{version}" / "checkpoints" / "last.ckpt" for version in (0, 1)]
    os.utime(kept[1], (1, 1))
    options = {"max_epochs": 3, "ckpt_path": "last", "log_every_n_steps": 1}
    with pytest.warns(UserWarning, match="changed from"):  # a logger that goes on takes the version of the earlier run
        again = small.fit(leyden, tmp_path, None, logger=Numbered(str(tmp_path), version=3), **options)
    assert again.trainer.ckpt_path == str(kept[0])
    assert again.trainer.global_step == 18
    assert f'ckpt_path="last" is {str(kept[0])!r}, of an earlier run.' in said

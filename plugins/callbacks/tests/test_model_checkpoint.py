"""ModelCheckpoint on its own: names, refusals, failures while saving, remote directories, resuming."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import leyden
from leyden.callbacks import Checkpoint, EarlyStopping, LambdaCallback, ModelCheckpoint
from leyden.utilities import MisconfigurationException
from leyden.utilities.storage import name_beside
from leyden_testing.training import quiet_trainer


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize(
    ("filename", "insert", "metrics", "expected"),
    [
        (None, True, {"epoch": 0, "step": 100}, "epoch=0-step=100"),
        (None, False, {"epoch": 0, "step": 100}, "0-100"),
        ("{epoch:03d}", True, {"epoch": 5}, "epoch=005"),
        ("{epoch}-{val_loss:.2f}", True, {"epoch": 2, "val_loss": 0.123456}, "epoch=2-val_loss=0.12"),
        ("e={epoch}-l={val/loss:.2f}", False, {"epoch": 2, "val/loss": torch.tensor(0.128)}, "e=2-l=0.13"),
        ("{epoch}-{epoch_test}", True, {"epoch": 1, "epoch_test": 2}, "epoch=1-epoch_test=2"),
        ("{a}/{metric.with.dots:.1f}", True, {"a": 1, "metric.with.dots": 1.25}, "a=1/metric.with.dots=1.2"),
        ("{missing:d}-{gone:.1f}", True, {}, "missing=0-gone=0.0"),
        ("plain", True, {}, "plain"),
    ],
)
def test_names_are_templates(
    filename: str | None, insert: bool, metrics: dict[str, Any], expected: str, lightning: Any
) -> None:
    arguments: dict[str, Any] = {"filename": filename, "auto_insert_metric_name": insert}
    ours = ModelCheckpoint(**arguments).format_checkpoint_name(metrics)
    assert ours == f"{expected}.ckpt"
    assert ours == lightning.callbacks.ModelCheckpoint(**arguments).format_checkpoint_name(dict(metrics))


def test_the_name_of_a_metric_makes_no_directory(tmp_path: Path, small: Any) -> None:
    """In Lightning it makes one, ``epoch=0-val/``, which stays behind when its file is removed."""

    class Model(type(small.make_model(leyden))):  # type: ignore[misc]
        def on_train_epoch_end(self) -> None:
            self.log("val/loss", 1.0 / (1 + self.current_epoch))

    checkpoint = ModelCheckpoint(tmp_path / "kept", monitor="val/loss", filename="{epoch}-{val/loss:.2f}")
    small.fit(leyden, tmp_path, [checkpoint], model=Model())
    assert files(tmp_path / "kept") == ["epoch=1-val_loss=0.50.ckpt"]


def test_a_directory_that_the_template_makes_goes_with_its_last_file(tmp_path: Path, small: Any) -> None:
    small.fit(leyden, tmp_path, [ModelCheckpoint(tmp_path / "kept", filename="{epoch}/deep/{step}")], max_epochs=3)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()] == [
        "kept/epoch=2/deep/step=18.ckpt"
    ]
    assert files(tmp_path / "kept") == ["epoch=2"]


def test_name_with_version_prefix_and_directory(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}")
    name = checkpoint.format_checkpoint_name({"step": 3}, ver=2, prefix="pre")
    assert name == str(tmp_path / "pre-step=3-v2.ckpt")


def test_characters_of_names_can_be_changed(tmp_path: Path, small: Any) -> None:
    class Own(ModelCheckpoint):
        CHECKPOINT_JOIN_CHAR = "_"
        CHECKPOINT_EQUALS_CHAR = ":"
        CHECKPOINT_NAME_LAST = "{epoch}_newest"
        FILE_EXTENSION = ".pt"

    small.fit(leyden, tmp_path, [Own(tmp_path / "kept", save_last=True)])
    assert files(tmp_path / "kept") == ["epoch:1_newest.pt", "epoch:1_step:12.pt"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"mode": "biggest"}, "mode='biggest'"),
        ({"save_top_k": -2}, "save_top_k=-2"),
        ({"save_top_k": 2}, "needs monitor="),
        ({"every_n_epochs": -1}, "every_n_epochs=-1"),
        ({"every_n_train_steps": -3}, "every_n_train_steps=-3"),
        ({"every_n_train_steps": 1, "every_n_epochs": 1}, "only one of every_n_train_steps and every_n_epochs"),
        (
            {"train_time_interval": timedelta(minutes=1), "every_n_epochs": 2},
            "one of every_n_epochs and train_time_interval",
        ),
    ],
)
def test_arguments_are_refused(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(MisconfigurationException, match=named):
        ModelCheckpoint(**arguments)


def test_a_link_needs_a_local_directory(tmp_path: Path, small: Any) -> None:
    with pytest.raises(ValueError, match="memory://kept"):
        small.fit(leyden, tmp_path, [ModelCheckpoint("memory://kept", save_last="link")])


def test_the_default_checkpoint(tmp_path: Path, small: Any) -> None:
    trainer = small.fit(leyden, tmp_path, None).trainer
    assert isinstance(trainer.checkpoint_callback, ModelCheckpoint)
    assert files(tmp_path / "checkpoints") == ["epoch=1-step=12.ckpt"]
    assert small.fit(leyden, tmp_path, None, enable_checkpointing=False).trainer.checkpoint_callbacks == []


def test_an_own_checkpoint_callback_takes_the_default_ones_place(tmp_path: Path, small: Any) -> None:
    class Own(Checkpoint):
        pass

    own = Own()
    trainer = small.fit(leyden, tmp_path, [own, EarlyStopping("train_loss")]).trainer
    assert trainer.checkpoint_callbacks == [own]
    assert trainer.callbacks[-1] is own
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("checkpoint", [{"save_last": True}, {"save_last": True, "save_top_k": 0}])
def test_a_fast_dev_run_saves_nothing(tmp_path: Path, small: Any, checkpoint: dict[str, Any]) -> None:
    kept = ModelCheckpoint(tmp_path / "kept", monitor="never logged", save_on_exception=True, **checkpoint)
    small.fit(leyden, tmp_path, [kept], fast_dev_run=True)
    assert not (tmp_path / "kept").exists()
    assert kept.best_model_path == kept.last_model_path == ""


@pytest.mark.parametrize(
    ("arguments", "run"),
    [
        ({}, {}),
        ({}, {"validate": False}),
        ({"every_n_train_steps": 2}, {}),
        ({"every_n_train_steps": 2}, {"val_check_interval": 0.5}),
        ({"train_time_interval": timedelta(0)}, {"validate": False}),
    ],
)
def test_a_metric_that_was_never_logged(
    tmp_path: Path, small: Any, arguments: dict[str, Any], run: dict[str, Any]
) -> None:
    model = small.make_model(leyden, scores=[1.0] * 4, validates=run.get("validate", True))
    sentence = r"ModelCheckpoint monitors 'train_los', which was not logged.*'train_loss'.*did you mean 'train_loss'\?"
    with pytest.raises(MisconfigurationException, match=sentence):
        small.fit(
            leyden, tmp_path, [ModelCheckpoint(tmp_path / "kept", monitor="train_los", **arguments)], model=model, **run
        )


def test_a_metric_that_validation_will_bring_is_waited_for(tmp_path: Path, small: Any) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "kept", monitor="score", save_on_train_epoch_end=True, save_top_k=-1)
    model = small.make_model(leyden, scores=[1.0, 2.0])
    with pytest.warns(UserWarning, match="monitors 'score'"):
        small.fit(leyden, tmp_path, [checkpoint], model=model, max_epochs=3, check_val_every_n_epoch=2)
    assert files(tmp_path / "kept") == ["epoch=1-step=12.ckpt", "epoch=2-step=18.ckpt"]


def test_a_directory_that_is_not_empty_is_said(tmp_path: Path, small: Any) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    with pytest.warns(UserWarning, match=r"kept exists and is not empty"):
        small.fit(leyden, tmp_path, [ModelCheckpoint(tmp_path / "kept")])
    small.fit(leyden, tmp_path, [ModelCheckpoint(tmp_path / "kept", save_top_k=0)])
    assert files(tmp_path / "kept") == ["epoch=1-step=12.ckpt", "notes.txt"]


def test_the_files_of_an_earlier_run_are_kept(tmp_path: Path, small: Any) -> None:
    small.fit(leyden, tmp_path, [ModelCheckpoint(tmp_path / "kept", filename="model", save_last=True)])
    with pytest.warns(UserWarning, match="not empty"):
        small.fit(leyden, tmp_path, [ModelCheckpoint(tmp_path / "kept", filename="model", save_last=True)])
    assert files(tmp_path / "kept") == ["last-v1.ckpt", "last.ckpt", "model-v1.ckpt", "model.ckpt"]


@pytest.mark.parametrize("last", [True, "link"])
@pytest.mark.parametrize("epoch", [0, 1], ids=["first checkpoint", "later checkpoint"])
def test_a_run_that_goes_on_from_a_file_by_name_has_one_last_file(
    tmp_path: Path, small: Any, last: Any, epoch: int
) -> None:
    """Lightning writes ``last-v1.ckpt``, and leaves ``last.ckpt`` old, or a link to a file that is gone."""

    def fit(**options: Any) -> None:
        checkpoint = ModelCheckpoint(tmp_path / "kept", save_last=last, save_top_k=-1)
        small.fit(leyden, tmp_path, [checkpoint], validate=False, **options)

    fit()
    with pytest.warns(UserWarning, match="not empty"):
        fit(max_epochs=3, ckpt_path=tmp_path / "kept" / f"epoch={epoch}-step={6 * (epoch + 1)}.ckpt")
    assert [name for name in files(tmp_path / "kept") if "last" in name] == ["last.ckpt"]
    assert torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)["global_step"] == 18


def test_the_link_of_a_run_that_was_resumed_from_its_first_checkpoint(tmp_path: Path, small: Any) -> None:
    """Lightning's ``last.ckpt`` then points to the file that the save has removed."""
    small.fit(leyden, tmp_path, [ModelCheckpoint(tmp_path / "kept", save_last="link")], max_epochs=1)
    with pytest.warns(UserWarning, match="not empty"):
        small.fit(leyden, tmp_path, [ModelCheckpoint(tmp_path / "kept", save_last="link")], ckpt_path="last")
    assert os.readlink(tmp_path / "kept" / "last.ckpt") == "epoch=1-step=12.ckpt"
    assert (tmp_path / "kept" / "last.ckpt").exists()
    assert "last-v1.ckpt" not in files(tmp_path / "kept")


def test_the_last_one_alone_is_written_at_each_save(tmp_path: Path, small: Any) -> None:
    """Lightning writes nothing before the fit ends, so that a killed run has no checkpoint."""
    checkpoint = ModelCheckpoint(tmp_path / "kept", save_top_k=0, save_last=True, every_n_epochs=2)
    result = small.fit(leyden, tmp_path, [checkpoint], max_epochs=5)
    assert result.written == [("last.ckpt", 12), ("last.ckpt", 24)]
    assert files(tmp_path / "kept") == ["last.ckpt"]


def test_two_may_differ_only_in_their_directories(tmp_path: Path, small: Any) -> None:
    """Lightning refuses the second."""

    def fit(order: int, scores: list[float], **options: Any) -> Any:
        both = [ModelCheckpoint(tmp_path / name, monitor="score", save_top_k=2) for name in ("one", "two")][::order]
        small.fit(leyden, tmp_path, both, model=small.make_model(leyden, scores), **options)
        return {os.path.basename(one.dirpath): [score.item() for score in one.best_k_models.values()] for one in both}

    fit(1, [2.0, 3.0])
    with pytest.warns(UserWarning, match="not empty"):
        kept = fit(-1, [1.0], max_epochs=3, ckpt_path=tmp_path / "two" / "epoch=1-step=12.ckpt")
    assert kept == {"one": [2.0, 1.0], "two": [2.0, 1.0]}
    assert files(tmp_path / "one") == ["epoch=0-step=6.ckpt", "epoch=2-step=18.ckpt"]


def test_a_resumed_run_that_is_to_keep_fewer(tmp_path: Path, small: Any) -> None:
    """Lightning keeps all of them, and each further one beside them."""
    first = ModelCheckpoint(tmp_path / "kept", monitor="score", save_top_k=3)
    small.fit(leyden, tmp_path, [first], model=small.make_model(leyden, [3.0, 1.0, 2.0]), max_epochs=3)
    second = ModelCheckpoint(tmp_path / "kept", monitor="score")
    with pytest.warns(UserWarning, match="not empty"):
        small.fit(
            leyden, tmp_path, [second], model=small.make_model(leyden, [1.5, 0.5]),
            max_epochs=5, ckpt_path=tmp_path / "kept" / "epoch=2-step=18.ckpt",
        )  # fmt: skip
    assert [score.item() for score in second.best_k_models.values()] == [0.5]
    assert "epoch=3-step=24.ckpt" not in files(tmp_path / "kept")
    assert "epoch=1-step=12.ckpt" not in files(tmp_path / "kept")


def test_a_checkpoint_knows_itself_as_the_best(tmp_path: Path, small: Any) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "kept", monitor="score", save_top_k=-1)
    small.fit(leyden, tmp_path, [checkpoint], model=small.make_model(leyden, [2.0, 1.0]))
    for path in checkpoint.best_k_models:
        state = torch.load(path, weights_only=True)["callbacks"][checkpoint.state_key]
        assert path in state["best_k_models"]
        assert state["best_model_path"] == path


def failing_trainer(fail_from: int) -> Any:
    """A Trainer class whose disk is full from the n-th checkpoint on."""

    class Full(leyden.Trainer):
        saves = 0

        def save_checkpoint(self, *args: Any, **options: Any) -> None:
            self.saves += 1
            if self.saves >= fail_from:
                raise OSError("no space left")
            super().save_checkpoint(*args, **options)

    return Full


@pytest.mark.parametrize("arguments", [{}, {"monitor": "score", "save_top_k": 2}, {"monitor": "score"}])
def test_nothing_moves_when_saving_fails(tmp_path: Path, small: Any, arguments: dict[str, Any]) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "kept", save_last=True, **arguments)
    trainer = quiet_trainer(
        tmp_path, failing_trainer(fail_from=3), callbacks=[checkpoint], max_epochs=3, enable_checkpointing=True
    )
    with pytest.raises(OSError, match="no space left"):
        trainer.fit(small.make_model(leyden, [3.0, 2.0, 1.0]), small.make_loader(), small.make_loader(2))
    kept = tmp_path / "kept"
    assert files(kept) == ["epoch=0-step=6.ckpt", "last.ckpt"]
    assert checkpoint.best_model_path == str(kept / "epoch=0-step=6.ckpt")
    assert checkpoint.last_model_path == str(kept / "last.ckpt")
    assert list(checkpoint.best_k_models) in ([], [checkpoint.best_model_path])


def test_the_link_points_to_a_file_at_any_moment(tmp_path: Path, small: Any) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "kept", save_last="link")
    link = tmp_path / "kept" / "last.ckpt"
    whole: list[bool] = []

    class Watching(leyden.Trainer):
        def save_checkpoint(self, *args: Any, **options: Any) -> None:
            super().save_checkpoint(*args, **options)
            whole.append(link.exists())
            remove = self.strategy.checkpoint_io.remove_checkpoint

            def watched(path: str) -> None:
                remove(path)
                whole.append(link.exists())

            self.strategy.checkpoint_io.remove_checkpoint = watched

    trainer = quiet_trainer(tmp_path, Watching, callbacks=[checkpoint], max_epochs=3, enable_checkpointing=True)
    trainer.fit(small.make_model(leyden, validates=False), small.make_loader())
    assert whole[0] is False  # the first checkpoint is written before the link to it
    assert len(whole) >= 5
    assert all(whole[1:])
    assert os.readlink(link) == "epoch=2-step=18.ckpt"


def test_a_link_that_a_killed_run_left_unfinished(tmp_path: Path, small: Any) -> None:
    other = tmp_path / "other.ckpt"
    other.write_text("precious")
    (tmp_path / "kept").mkdir()
    name_beside(tmp_path / "kept" / "last.ckpt").symlink_to(other)
    with pytest.warns(UserWarning, match="not empty"):
        small.fit(leyden, tmp_path, [ModelCheckpoint(tmp_path / "kept", save_last="link")])
    assert files(tmp_path / "kept") == ["epoch=1-step=12.ckpt", "last.ckpt"]
    assert os.readlink(tmp_path / "kept" / "last.ckpt") == "epoch=1-step=12.ckpt"
    assert other.read_text() == "precious"


def test_a_copy_stands_in_where_links_are_not_allowed(tmp_path: Path, small: Any, monkeypatch: Any) -> None:
    def refuse(*args: Any) -> None:
        raise OSError("privilege not held")

    monkeypatch.setattr(os, "symlink", refuse)
    small.fit(leyden, tmp_path, [ModelCheckpoint(tmp_path / "kept", save_last="link")])
    last = tmp_path / "kept" / "last.ckpt"
    assert not last.is_symlink()
    assert torch.load(last, weights_only=True)["global_step"] == 12
    assert files(tmp_path / "kept") == ["epoch=1-step=12.ckpt", "last.ckpt"]


def test_a_remote_directory(tmp_path: Path, small: Any, memory_filesystem: Any) -> None:
    checkpoint = ModelCheckpoint("memory://kept", monitor="score", save_top_k=2, save_last=True)
    small.fit(leyden, tmp_path, [checkpoint], model=small.make_model(leyden, [3.0, 1.0, 2.0]), max_epochs=3)
    names = sorted(path.rpartition("/")[2] for path in memory_filesystem.ls("/kept", detail=False))
    assert names == ["epoch=1-step=12.ckpt", "epoch=2-step=18.ckpt", "last.ckpt"]
    assert checkpoint.best_model_path == "memory://kept/epoch=1-step=12.ckpt"
    checkpoint.to_yaml()
    assert "epoch=1-step=12.ckpt" in memory_filesystem.cat("/kept/best_k_models.yaml").decode()
    with pytest.warns(UserWarning, match="memory://kept exists and is not empty"):
        small.fit(leyden, tmp_path, [ModelCheckpoint("memory://kept")])


@pytest.fixture
def memory_filesystem() -> Any:
    fsspec = pytest.importorskip("fsspec")
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    if filesystem.exists("/kept"):
        filesystem.rm("/kept", recursive=True)


def test_the_interval_of_time(tmp_path: Path, small: Any, monkeypatch: Any) -> None:
    now = 0.0
    monkeypatch.setattr("leyden_callbacks.model_checkpoint.time", SimpleNamespace(monotonic=lambda: now))

    def pass_a_minute(*_: Any) -> None:
        nonlocal now
        now += 60

    checkpoint = ModelCheckpoint(tmp_path / "kept", train_time_interval=timedelta(minutes=4), save_top_k=-1)
    small.fit(leyden, tmp_path, [checkpoint, LambdaCallback(on_train_batch_start=pass_a_minute)])
    assert files(tmp_path / "kept") == ["epoch=0-step=4.ckpt", "epoch=1-step=12.ckpt", "epoch=1-step=8.ckpt"]


def test_an_exception_does_not_overwrite_the_best(tmp_path: Path, small: Any) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "kept", filename="model", monitor="score", save_on_exception=True)
    result = small.fit(leyden, tmp_path, [checkpoint], model=small.make_model(leyden, [1.0], fail_at=8))
    assert isinstance(result.error, ArithmeticError)
    assert result.written == [("model.ckpt", 6), ("model-v1.ckpt", 8)]
    assert checkpoint.best_model_path == str(tmp_path / "kept" / "model.ckpt")


def test_resuming_goes_on_with_the_ranking(tmp_path: Path, small: Any) -> None:
    def checkpoint() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / "kept", monitor="score", save_top_k=2, save_last=True)

    first = checkpoint()
    small.fit(leyden, tmp_path, [first], model=small.make_model(leyden, [2.0, 3.0]))
    second = checkpoint()
    with pytest.warns(UserWarning, match="not empty"):
        small.fit(
            leyden, tmp_path, [second], model=small.make_model(leyden, [4.0, 1.0]),
            max_epochs=4, ckpt_path=first.last_model_path,
        )  # fmt: skip
    assert [score.item() for score in second.best_k_models.values()] == [2.0, 1.0]
    # the second run resumed from last.ckpt; it overwrites that file only with its own newest state
    assert files(tmp_path / "kept") == ["epoch=0-step=6.ckpt", "epoch=3-step=24.ckpt", "last.ckpt"]


def test_what_is_resumed_from_is_not_removed(tmp_path: Path, small: Any) -> None:
    first = ModelCheckpoint(tmp_path / "kept")
    small.fit(leyden, tmp_path, [first])
    with pytest.warns(UserWarning, match="not empty"):
        small.fit(leyden, tmp_path, [ModelCheckpoint(tmp_path / "kept")], max_epochs=4, ckpt_path=first.best_model_path)
    assert files(tmp_path / "kept") == ["epoch=1-step=12.ckpt", "epoch=3-step=24.ckpt"]


def test_resuming_in_another_directory_takes_over_the_best_path_only(tmp_path: Path, small: Any) -> None:
    first = ModelCheckpoint(tmp_path / "one", monitor="score")
    small.fit(leyden, tmp_path, [first], model=small.make_model(leyden, [1.0, 2.0]))
    second = ModelCheckpoint(tmp_path / "two", monitor="score")
    with pytest.warns(UserWarning, match=r"changed from .*one.* to .*two"):
        small.fit(
            leyden, tmp_path, [second], model=small.make_model(leyden, [5.0]),
            max_epochs=2, ckpt_path=first.best_model_path,
        )  # fmt: skip
    assert list(second.best_k_models) == [str(tmp_path / "two" / "epoch=1-step=12.ckpt")]
    assert files(tmp_path / "one") == ["epoch=0-step=6.ckpt"]


def test_the_newest_last_is_found(tmp_path: Path, small: Any) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "kept", save_last=True)
    trainer = small.fit(leyden, tmp_path, [checkpoint]).trainer
    for name in ("last-v1.ckpt", "lasting.ckpt", "last.txt"):
        (tmp_path / "kept" / name).touch()
    found = checkpoint._find_last_checkpoints(trainer)
    assert sorted(map(os.path.basename, found)) == ["last-v1.ckpt", "last.ckpt"]


def test_to_yaml(tmp_path: Path, small: Any) -> None:
    yaml = pytest.importorskip("yaml")
    checkpoint = ModelCheckpoint(tmp_path / "kept", monitor="score", save_top_k=-1)
    small.fit(
        leyden, tmp_path, [checkpoint], model=small.make_model(leyden, [1e-5, float("nan"), -3.0, 1e30]), max_epochs=4
    )
    checkpoint.to_yaml()
    content = yaml.safe_load((tmp_path / "kept" / "best_k_models.yaml").read_text())
    assert content == pytest.approx({path: score.item() for path, score in checkpoint.best_k_models.items()})
    assert content[str(tmp_path / "kept" / "epoch=1-step=12.ckpt")] == float("inf")


def test_verbose_says_what_was_saved_and_what_was_not(tmp_path: Path, small: Any, said: list[str]) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "kept", monitor="score", verbose=True)
    small.fit(leyden, tmp_path, [checkpoint], model=small.make_model(leyden, [1.5, 2.0]))
    path = tmp_path / "kept" / "epoch=0-step=6.ckpt"
    assert f"Epoch 0, step 6: score is 1.50000 (best 1.50000), saved in {path}." in said
    assert "Epoch 1, step 12: score is not among the best 1." in said


def test_epoch_metrics_logged_last_are_seen(tmp_path: Path, small: Any) -> None:
    """The module's ``on_train_epoch_end`` runs after those of callbacks; checkpoints still see what it logs."""
    checkpoint = ModelCheckpoint(tmp_path / "kept", monitor="train_end", mode="max", filename="{train_end:.0f}")
    small.fit(leyden, tmp_path, [checkpoint], max_epochs=3)
    assert files(tmp_path / "kept") == ["train_end=2.ckpt"]


def test_an_interruption_is_an_exception_too(tmp_path: Path, small: Any) -> None:
    def interrupt(trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 4:
            raise KeyboardInterrupt

    checkpoint = ModelCheckpoint(tmp_path / "kept", save_on_exception=True)
    with pytest.raises(KeyboardInterrupt):
        small.fit(leyden, tmp_path, [checkpoint, LambdaCallback(on_train_batch_start=interrupt)])
    assert files(tmp_path / "kept") == ["epoch=0-step=4.ckpt"]


def test_an_exception_outside_of_a_fit_saves_nothing(tmp_path: Path, small: Any) -> None:
    model = small.make_model(leyden)
    checkpoint = ModelCheckpoint(tmp_path / "kept", save_on_exception=True, save_top_k=0)
    trainer = small.fit(leyden, tmp_path, [checkpoint], model=model).trainer
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.test(model, [torch.ones(2, 3)], verbose=False)
    assert not (tmp_path / "kept").exists()


def test_what_validation_saved_is_not_saved_again_on_resuming(tmp_path: Path, small: Any) -> None:
    def checkpoint() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / "kept", monitor="score", save_top_k=-1)

    small.fit(
        leyden, tmp_path, [checkpoint()], model=small.make_model(leyden, [2.0]), max_steps=3, val_check_interval=0.5
    )
    resumed = checkpoint()
    with pytest.warns(UserWarning, match="not empty"):
        small.fit(
            leyden, tmp_path, [resumed], model=small.make_model(leyden, [1.0]), max_epochs=1, val_check_interval=0.5,
            ckpt_path=tmp_path / "kept" / "epoch=0-step=3.ckpt",
        )  # fmt: skip
    assert files(tmp_path / "kept") == ["epoch=0-step=3.ckpt", "epoch=0-step=6.ckpt"]
    assert [score.item() for score in resumed.best_k_models.values()] == [2.0, 1.0]


def test_a_metric_of_training_is_seen_after_validation(tmp_path: Path, small: Any) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "kept", monitor="train_loss", save_top_k=-1)
    small.fit(leyden, tmp_path, [checkpoint], val_check_interval=0.5, max_epochs=1)
    assert files(tmp_path / "kept") == ["epoch=0-step=3.ckpt", "epoch=0-step=6.ckpt"]

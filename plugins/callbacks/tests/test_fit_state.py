"""Callbacks that are used for several fits: which of them start anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint, Timer
from leyden_testing.training import quiet_trainer

FOLDS = [[5.0, 4.0, 4.0, 4.0, 4.0], [9.0, 8.0, 7.0, 7.0, 7.0]]


def make(root: Path) -> list[Any]:
    return [EarlyStopping("score", patience=2), ModelCheckpoint(root / "kept", monitor="score"), Timer()]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("owner", ["trainer", "model"])
def test_the_next_fold_starts_them_anew(tmp_path: Path, small: Any, owner: str) -> None:
    """In Lightning the second fold goes on with the best score of the first, and is stopped at once."""
    used = make(tmp_path)
    for scores, epochs, best in zip(FOLDS, (4, 5), (4.0, 7.0), strict=True):
        model = small.make_model(leyden, scores)
        if owner == "model":
            model.configure_callbacks = lambda: used
        trainer = small.fit(leyden, tmp_path, used if owner == "trainer" else [], model=model, max_epochs=9).trainer
        stopping, checkpoint, timer = used
        assert trainer.current_epoch == epochs
        assert stopping.best_score == checkpoint.best_model_score == best
        assert timer.start_time("test") is None
        trainer.test(model, small.make_loader(1), ckpt_path="best", verbose=False)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_what_was_set_before_the_first_fit_counts_in_each(tmp_path: Path, small: Any) -> None:
    stopping = EarlyStopping("score", patience=2)
    stopping.best_score.fill_(4.5)  # as a subclass may, for a score to be beaten
    for scores, best, epochs in (([5.0] * 9, 4.5, 2), ([4.0] * 9, 4.0, 3)):
        trainer = small.fit(leyden, tmp_path, [stopping], model=small.make_model(leyden, scores), max_epochs=9).trainer
        assert (stopping.best_score, trainer.current_epoch) == (best, epochs)


def test_a_new_fit_has_a_directory_of_its_own(tmp_path: Path, small: Any) -> None:
    checkpoint = ModelCheckpoint()
    for version in (0, 1):
        logger = small.MemoryLogger(str(tmp_path), version=version)
        small.fit(leyden, tmp_path, [checkpoint], logger=logger, log_every_n_steps=1)
        assert (tmp_path / "runs" / f"version_{version}" / "checkpoints" / "epoch=1-step=12.ckpt").is_file()


def test_a_directory_that_the_user_gives_for_a_fold_is_taken(tmp_path: Path, small: Any) -> None:
    checkpoint = ModelCheckpoint()
    for fold in ("one", "two"):
        checkpoint.dirpath = str(tmp_path / fold)
        small.fit(leyden, tmp_path, [checkpoint])
        assert checkpoint.best_model_path == str(tmp_path / fold / "epoch=1-step=12.ckpt")


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_second_fit_of_one_trainer_goes_on(tmp_path: Path, small: Any) -> None:
    trainer = quiet_trainer(tmp_path, callbacks=make(tmp_path), max_epochs=2, enable_checkpointing=True)
    for scores in ([5.0, 6.0], [7.0]):
        trainer.fit(small.make_model(leyden, scores), small.make_loader(), small.make_loader(2))
        trainer.fit_loop.max_epochs = 9
    assert trainer.current_epoch == 3
    assert trainer.early_stopping_callback.best_score == 5.0


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_resumed_fit_goes_on(tmp_path: Path, small: Any) -> None:
    used = make(tmp_path)
    small.fit(leyden, tmp_path, used, model=small.make_model(leyden, [5.0, 6.0]))
    trainer = small.fit(
        leyden, tmp_path, used, model=small.make_model(leyden, [7.0, 7.0]), max_epochs=9,
        ckpt_path=used[1].best_model_path,
    ).trainer  # fmt: skip
    assert trainer.current_epoch == 3
    assert used[0].best_score == 5.0
    assert list(used[1].best_k_models.values()) == [5.0]


def test_a_callback_of_ones_own_may_start_anew_too(tmp_path: Path, small: Any) -> None:
    class Counting(leyden.Callback):
        batches = 0

        def start_anew(self) -> None:
            self.batches = 0

        def on_train_batch_end(self, *_: Any) -> None:
            self.batches += 1

    counting = Counting()
    for _ in range(2):
        small.fit(leyden, tmp_path, [counting], enable_checkpointing=False)
        assert counting.batches == 2 * small.batches

"""EarlyStopping: when training stops and why, beside pytorch-lightning's and on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from leyden.callbacks import EarlyStopping
from leyden.utilities import MisconfigurationException
from leyden_testing.training import quiet_trainer

NAN = float("nan")
CASES: dict[str, tuple[dict[str, Any], list[float], dict[str, Any]]] = {
    "patience": ({"patience": 2}, [3.0, 2.0, 2.5, 2.5, 1.0, 0.0], {}),
    "no patience": ({"patience": 0}, [3.0, 3.0, 2.0], {}),
    "never": ({"patience": 2}, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0], {}),
    "largest": ({"patience": 2, "mode": "max"}, [1.0, 2.0, 2.0, 2.0, 3.0, 4.0], {}),
    "too small a gain": ({"patience": 2, "min_delta": 0.5}, [3.0, 2.75, 2.5, 2.25, 1.0, 0.0], {}),
    "too small a gain, largest": ({"patience": 1, "min_delta": 0.5, "mode": "max"}, [1.0, 2.0, 2.5, 9.0], {}),
    "nan": ({"patience": 5}, [3.0, NAN, 1.0], {}),
    "nan let pass": ({"patience": 3, "check_finite": False}, [3.0, NAN, 1.0, NAN, NAN, NAN, 0.0], {}),
    "good enough": ({"stopping_threshold": 1.0}, [3.0, 1.0, 0.5, 0.25], {}),
    "good enough, largest": ({"stopping_threshold": 1.0, "mode": "max"}, [0.5, 1.0, 1.5, 2.0], {}),
    "diverging": ({"divergence_threshold": 4.0}, [3.0, 4.0, 4.5, 1.0], {}),
    "diverging, largest": ({"divergence_threshold": 0.5, "mode": "max"}, [1.0, 0.5, 0.25, 1.0], {}),
    "twice an epoch": ({"patience": 3}, [3.0] * 9, {"val_check_interval": 0.5}),
    "every other epoch": ({"patience": 1}, [3.0] * 9, {"check_val_every_n_epoch": 2}),
    "after validation": ({"patience": 1, "check_on_train_epoch_end": False}, [3.0] * 9, {}),
    "min_epochs": ({"patience": 1}, [3.0] * 9, {"min_epochs": 4}),
}


@pytest.mark.parametrize("case", CASES)
def test_stops_where_lightning_stops(case: str, tmp_path: Path, lightning: Any, small: Any) -> None:
    arguments, scores, run = CASES[case]
    seen = {}
    for library, kind in ((leyden, EarlyStopping), (lightning, lightning.callbacks.EarlyStopping)):
        stopping = kind("score", **arguments)
        result = small.fit(
            library,
            tmp_path,
            [stopping],
            model=small.make_model(library, scores),
            enable_checkpointing=False,
            **{"max_epochs": len(scores), **run},
        )
        state = small.plain(stopping.state_dict())
        said = state.pop("stopping_reason_message")
        seen[library.__name__] = {
            "state": state,
            "state key": stopping.state_key,
            "reason": stopping.stopping_reason.name,
            "stopped": (said is not None, result.trainer.should_stop),
            "counters": (result.trainer.current_epoch, result.trainer.global_step),
        }
    assert seen["leyden"] == seen["pytorch_lightning"]


@pytest.mark.parametrize(
    ("arguments", "scores", "message"),
    [
        ({"patience": 1}, [2.0, 3.0], "score did not improve in the last 1 checks; its best was 2.000."),
        ({}, [2.0, NAN], "score is nan; its best was 2.000."),
        ({"stopping_threshold": 1.5}, [1.0], "score reached 1.0 < 1.5."),
        ({"divergence_threshold": 2.5}, [3.0], "score is 3.0, past 2.5: it diverges."),
    ],
)
def test_says_why(
    tmp_path: Path, small: Any, said: list[str], arguments: dict[str, Any], scores: list[float], message: str
) -> None:
    stopping = EarlyStopping("score", verbose=True, **arguments)
    small.fit(leyden, tmp_path, [stopping], model=small.make_model(leyden, scores), enable_checkpointing=False)
    assert stopping.stopping_reason_message == f"{message} Training stops."
    assert stopping.stopping_reason_message in said


def test_says_improvements(tmp_path: Path, small: Any, said: list[str]) -> None:
    stopping = EarlyStopping("score", verbose=True)
    small.fit(leyden, tmp_path, [stopping], model=small.make_model(leyden, [2.0, 1.5]), enable_checkpointing=False)
    assert [line for line in said if "improved" in line] == [
        "score improved to 2.000.",
        "score improved by 0.500 to 1.500.",
    ]
    assert stopping.stopping_reason_message is None


@pytest.mark.parametrize("run", [{}, {"check_val_every_n_epoch": 2}])
def test_a_metric_that_was_never_logged(tmp_path: Path, small: Any, run: dict[str, Any]) -> None:
    model = small.make_model(leyden, [1.0, 2.0])
    sentence = r"EarlyStopping monitors 'scores', which was not logged.*'score'.*did you mean 'score'\?"
    with pytest.raises(RuntimeError, match=sentence):
        small.fit(leyden, tmp_path, [EarlyStopping("scores")], model=model, enable_checkpointing=False, **run)


def test_a_missing_metric_may_be_let_pass(tmp_path: Path, small: Any) -> None:
    run = {"enable_checkpointing": False}
    small.fit(leyden, tmp_path, [EarlyStopping("absent", strict=False)], **run)
    with pytest.warns(RuntimeWarning, match=r"monitors 'absent'.*log it with self.log"):
        small.fit(leyden, tmp_path, [EarlyStopping("absent", strict=False, verbose=True)], **run)


def test_mode_is_checked() -> None:
    with pytest.raises(MisconfigurationException, match="mode='auto'"):
        EarlyStopping("score", mode="auto")  # type: ignore[arg-type]


def test_a_fast_dev_run_is_not_stopped(tmp_path: Path, small: Any) -> None:
    stopping = EarlyStopping("absent")
    assert small.fit(leyden, tmp_path, [stopping], fast_dev_run=True).error is None
    assert stopping.wait_count == 0


def test_the_sanity_check_and_other_runs_do_not_count(tmp_path: Path, small: Any) -> None:
    stopping = EarlyStopping("train_loss", check_on_train_epoch_end=False)
    model = small.make_model(leyden)
    trainer = small.fit(leyden, tmp_path, [stopping], model=model, max_epochs=1, enable_checkpointing=False).trainer
    score = stopping.best_score
    trainer.validate(model, small.make_loader(2), verbose=False)
    assert stopping.best_score is score
    assert stopping.wait_count == 0


def test_metrics_logged_last_in_an_epoch_are_seen(tmp_path: Path, small: Any) -> None:
    stopping = EarlyStopping("train_end", patience=1, mode="min")
    small.fit(leyden, tmp_path, [stopping], max_epochs=9, enable_checkpointing=False)
    assert stopping.best_score == 0.0
    assert stopping.stopped_epoch == 1


def test_two_with_their_own_state_are_resumed(tmp_path: Path, small: Any) -> None:
    def make() -> list[EarlyStopping]:
        return [EarlyStopping("score", patience=3), EarlyStopping("score", patience=9, mode="max")]

    first = make()
    trainer = small.fit(leyden, tmp_path, first, model=small.make_model(leyden, [1.0, 2.0]), max_epochs=2).trainer
    second = make()
    with pytest.warns(UserWarning, match="not empty"):
        resumed = small.fit(
            leyden, tmp_path, second, model=small.make_model(leyden, [3.0, 4.0, 5.0, 6.0]), max_epochs=9,
            ckpt_path=trainer.checkpoint_callback.best_model_path,
        )  # fmt: skip
    assert resumed.trainer.current_epoch == 4
    assert [callback.stopped_epoch for callback in second] == [3, 0]
    assert [callback.best_score.item() for callback in second] == [1.0, 4.0]


def test_a_state_of_lightning_is_taken_over(tmp_path: Path, lightning: Any, small: Any) -> None:
    theirs = lightning.callbacks.EarlyStopping("score", patience=2)
    checkpoint = lightning.callbacks.ModelCheckpoint(tmp_path / "kept")
    small.fit(
        lightning, tmp_path, [theirs, checkpoint], model=small.make_model(lightning, [1.0, 2.0, 3.0]), max_epochs=3
    )
    states = torch.load(checkpoint.best_model_path, weights_only=True)["callbacks"]
    ours = EarlyStopping("score")
    ours.load_state_dict(states[ours.state_key])
    assert small.plain(ours.state_dict()) == {**small.plain(theirs.state_dict()), "patience": 3}


def test_a_resumed_fit_waits_as_long_as_it_is_now_told_to(tmp_path: Path, small: Any) -> None:
    """Lightning takes the patience of the checkpoint, and stops after one more epoch."""

    def fit(patience: int, epochs: int, **options: Any) -> Any:
        stopping = EarlyStopping("score", patience=patience)
        model = small.make_model(leyden, [1.0] * epochs)
        return small.fit(leyden, tmp_path, [stopping], model=model, max_epochs=epochs, **options).trainer

    kept = fit(2, 3).checkpoint_callback.best_model_path
    with pytest.warns(UserWarning, match="not empty"):
        trainer = fit(5, 9, ckpt_path=kept)
    assert trainer.current_epoch == 6


def test_two_may_differ_only_in_patience(tmp_path: Path, small: Any) -> None:
    """Lightning refuses the second."""

    def fit(scores: list[float], **options: Any) -> Any:
        stopping = [EarlyStopping("score", patience=3), EarlyStopping("score", patience=9)]
        model = small.make_model(leyden, scores)
        return small.fit(leyden, tmp_path, stopping, model=model, max_epochs=20, **options).trainer

    trainer = fit([2.0] * 4)
    assert [(each.stopped_epoch, each.wait_count) for each in trainer.early_stopping_callbacks] == [(3, 3), (0, 3)]
    with pytest.warns(UserWarning, match="not empty"):
        trainer = fit([1.0] * 4, ckpt_path=trainer.checkpoint_callback.best_model_path)
    assert [(each.stopped_epoch, each.wait_count) for each in trainer.early_stopping_callbacks] == [(7, 3), (0, 3)]


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "in another order"])
def test_two_of_one_metric_keep_their_own_states(tmp_path: Path, small: Any, order: int) -> None:
    def make() -> list[EarlyStopping]:
        return [EarlyStopping("score", patience=9, min_delta=delta) for delta in (0.0, 1.5)]

    first, second = make(), make()
    trainer = small.fit(leyden, tmp_path, first, model=small.make_model(leyden, [4.0, 3.0]), max_epochs=2).trainer
    assert [(stopping.best_score, stopping.wait_count) for stopping in first] == [(3.0, 0), (4.0, 1)]
    with pytest.warns(UserWarning, match="not empty"):
        small.fit(
            leyden, tmp_path, second[::order], model=small.make_model(leyden, [9.0]), max_epochs=3,
            ckpt_path=trainer.checkpoint_callback.best_model_path,
        )  # fmt: skip
    assert [(stopping.best_score, stopping.wait_count) for stopping in second] == [(3.0, 1), (4.0, 2)]


def test_two_that_are_the_same_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Two callbacks have the state_key .*'monitor': 'score'.*keep one"):
        quiet_trainer(tmp_path, callbacks=[EarlyStopping("score"), EarlyStopping("score", verbose=True)])


def test_a_subclass_moves_the_check(tmp_path: Path, small: Any) -> None:
    class ByBatch(EarlyStopping):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            return None

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self._run_early_stopping_check(trainer)

    stopping = ByBatch("train_loss", patience=1, mode="max")
    trainer = small.fit(leyden, tmp_path, [stopping], max_epochs=5, enable_checkpointing=False).trainer
    assert trainer.early_stopping_callback is stopping
    assert trainer.should_stop
    assert trainer.global_step % small.batches  # in the middle of an epoch

"""Timer: durations, time limits by step and by epoch, measuring, resuming. A fake clock replaces the real time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import leyden
from leyden.callbacks import LambdaCallback, ModelCheckpoint, Timer
from leyden.utilities import MisconfigurationException

MINUTE = 60.0


class Clock:
    """A clock that advances by a minute in every training batch and by a second in every evaluation batch."""

    def __init__(self) -> None:
        self.now = 1000.0

    def callback(self) -> LambdaCallback:
        def second(*_: Any) -> None:
            self.now += 1

        return LambdaCallback(
            on_train_batch_start=self.minute, on_validation_batch_start=second, on_test_batch_start=second,
            on_predict_batch_start=second,
        )  # fmt: skip

    def minute(self, *_: Any) -> None:
        self.now += MINUTE


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("leyden_callbacks.timer.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("00:00:01:30", 90),
        ("01:02:03:04", 93784),
        (" 100:00:00:00 ", 8640000),
        (timedelta(hours=1), 3600),
        (timedelta(0), 0),
        ({"hours": 1, "minutes": 30}, 5400),
        (None, None),
    ],
)
def test_durations(duration: Any, seconds: float | None, lightning: Any) -> None:
    assert Timer(duration).time_remaining() == seconds
    assert lightning.callbacks.Timer(duration).time_remaining() == seconds


def test_a_duration_may_be_written_as_that_of_the_trainer() -> None:
    assert Timer("0:1:2:3").time_remaining() == 3723


@pytest.mark.parametrize("duration", ["1:00", "an hour", 3600, {"fortnights": 1}])
def test_durations_that_are_not_understood(duration: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"^Timer: duration=.* is not a duration; write"):
        Timer(duration)


def test_arguments_are_checked() -> None:
    with pytest.raises(MisconfigurationException, match="interval='batch'"):
        Timer(interval="batch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no stage 'fit'"):
        Timer().time_elapsed("fit")


@pytest.mark.parametrize(("interval", "steps"), [("step", 4), ("epoch", 6)])
def test_training_stops_when_the_time_is_up(
    tmp_path: Path, small: Any, clock: Clock, said: list[str], interval: Any, steps: int
) -> None:
    timer = Timer({"minutes": 4}, interval=interval)
    trainer = small.fit(leyden, tmp_path, [clock.callback(), timer], validate=False, max_epochs=5).trainer
    assert trainer.global_step == steps
    assert timer.time_elapsed() == steps * MINUTE
    assert timer.time_remaining() == (4 - steps) * MINUTE
    assert "The time limit is reached: training took 0:04:00. Training stops." in said or interval == "epoch"


def test_it_can_be_silent(tmp_path: Path, small: Any, clock: Clock, said: list[str]) -> None:
    small.fit(leyden, tmp_path, [clock.callback(), Timer({"minutes": 4}, verbose=False)], max_epochs=5)
    assert not [line for line in said if "time limit" in line]


def test_max_time_makes_one(tmp_path: Path, small: Any, clock: Clock) -> None:
    trainer = small.fit(leyden, tmp_path, [clock.callback()], max_time="00:00:03:00", max_epochs=5).trainer
    assert [type(callback) for callback in trainer.callbacks].count(Timer) == 1
    assert trainer.global_step == 3


def test_an_own_timer_takes_the_place_of_max_time(tmp_path: Path, small: Any, clock: Clock) -> None:
    timer = Timer({"minutes": 2})
    with pytest.warns(UserWarning, match="max_time=0:05:00 is not used"):
        trainer = small.fit(leyden, tmp_path, [clock.callback(), timer], max_time={"minutes": 5}, max_epochs=5).trainer
    assert [callback for callback in trainer.callbacks if isinstance(callback, Timer)] == [timer]
    assert trainer.global_step == 2


def test_stages_are_measured(tmp_path: Path, small: Any, clock: Clock) -> None:
    timer = Timer()
    model = small.make_model(leyden)
    trainer = small.fit(leyden, tmp_path, [clock.callback(), timer], model=model, max_epochs=1).trainer
    trainer.test(model, small.make_loader(3), verbose=False)
    trainer.predict(model, small.make_loader(5))
    assert timer.time_elapsed("train") == 6 * MINUTE + 2
    assert timer.time_elapsed("validate") == 2
    assert timer.time_elapsed("sanity_check") == 2
    assert timer.time_elapsed("test") == 3
    assert timer.time_elapsed("predict") == 5
    assert timer.time_remaining() is None
    assert timer.end_time("test") - timer.start_time("test") == 3
    assert Timer().start_time() is None
    assert Timer().end_time("validate") is None


def test_a_second_fit_is_measured_anew(tmp_path: Path, small: Any, clock: Clock) -> None:
    timer = Timer()
    model = small.make_model(leyden, validates=False)
    trainer = small.fit(leyden, tmp_path, [clock.callback(), timer], model=model, max_epochs=1, validate=False).trainer
    trainer.max_epochs = 3
    seen: list[float] = []
    model.on_train_batch_end = lambda *_: seen.append(timer.time_elapsed())
    with pytest.warns(UserWarning, match="not empty"):
        trainer.fit(model, small.make_loader())
    assert seen[0] == MINUTE
    assert timer.time_elapsed() == 12 * MINUTE


def test_the_time_before_an_interruption_counts(tmp_path: Path, small: Any, clock: Clock) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "one")
    small.fit(leyden, tmp_path, [clock.callback(), Timer({"minutes": 8}), checkpoint], max_epochs=1, validate=False)
    timer = Timer({"minutes": 8})
    other = ModelCheckpoint(tmp_path / "two")
    with pytest.warns(UserWarning, match="changed from"):
        trainer = small.fit(
            leyden, tmp_path, [clock.callback(), timer, other], max_epochs=9, validate=False,
            ckpt_path=checkpoint.best_model_path,
        ).trainer  # fmt: skip
    assert trainer.global_step == 8
    assert timer.time_elapsed() == 8 * MINUTE


def test_a_resumed_run_without_time_left_does_not_train(tmp_path: Path, small: Any, clock: Clock) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "one")
    small.fit(leyden, tmp_path, [clock.callback(), Timer(), checkpoint], max_epochs=1)
    with pytest.warns(UserWarning, match="changed from"):
        trainer = small.fit(
            leyden, tmp_path, [clock.callback(), Timer({"minutes": 3}), ModelCheckpoint(tmp_path / "two")],
            max_epochs=9, ckpt_path=checkpoint.best_model_path,
        ).trainer  # fmt: skip
    assert trainer.global_step == small.batches


def test_its_state_is_lightnings(lightning: Any, clock: Clock) -> None:
    theirs = lightning.callbacks.Timer()
    theirs.load_state_dict({"time_elapsed": {"train": 5.0}})
    ours = Timer()
    ours.load_state_dict(theirs.state_dict())
    assert ours.state_key == theirs.state_key
    assert ours.state_dict() == theirs.state_dict()
    assert ours.time_elapsed() == 5.0

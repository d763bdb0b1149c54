"""The way of one batch through the framework: how deep, how many calls, through which files in which order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import leyden
from leyden_testing.models import SmallModel
from leyden_testing.training import quiet_trainer

PACKAGE = str(Path(leyden.__file__).parent)
BATCHES, WATCHED = 8, 5
Event = tuple[FrameType, str, Any]


def of_framework(frame: FrameType | None) -> bool:
    """Whether a frame is of the core or of a plugin of this repository, but not of a model of the tests."""
    package = "" if frame is None else frame.f_globals.get("__name__", "").partition(".")[0]
    return package.startswith("leyden") and package != "leyden_testing"


def stack() -> list[FrameType]:
    """The frames of the caller and its callers, the outermost first, from ``Trainer.fit`` on."""
    frames: list[FrameType] = []
    frame = sys._getframe(1)
    while frame.f_code is not leyden.Trainer.fit.__code__:
        frames.append(frame)
        assert frame.f_back is not None
        frame = frame.f_back
    return [frame, *reversed(frames)]


class Watching(list[torch.Tensor]):
    """Batches of a fit; from the one drawn to the next, every call is passed to ``watch``."""

    def __init__(self, watch: Callable[[FrameType, str, Any], None]) -> None:
        super().__init__([torch.ones(3, 2)] * BATCHES)
        self.watch = watch

    def __iter__(self) -> Iterator[torch.Tensor]:
        outer = sys.getprofile()
        for number in range(BATCHES):
            if number == WATCHED:
                sys.setprofile(self.watch)
            elif number == WATCHED + 1:
                sys.setprofile(outer)
            yield self[number]


class Logging(SmallModel):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss


def test_at_most_eight_frames_lie_between_fit_and_training_step(tmp_path):
    seen: list[list[str]] = []

    class Model(SmallModel):
        def training_step(self, batch, batch_idx):
            seen.append([frame.f_code.co_name for frame in stack()])
            return super().training_step(batch, batch_idx)

    quiet_trainer(tmp_path).fit(Model(), torch.ones(2, 3, 2))
    assert len(seen) == 2
    for names in seen:
        assert names[0] == "fit"
        assert names[-1] == "training_step"
        assert len(names) <= 8, names


def test_a_bare_batch_is_at_most_forty_calls_in_five_files(tmp_path):
    calls: list[str] = []
    files: set[str] = set()

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and of_framework(frame):
            calls.append(frame.f_code.co_name)
            files.add(frame.f_code.co_filename)

    quiet_trainer(tmp_path).fit(SmallModel(), Watching(watch))
    assert "leyden_optimize_batch" in calls
    assert len(calls) <= 40, calls
    assert len(files) <= 5, files


def test_a_log_call_is_at_most_ten_calls(tmp_path):
    calls: list[str] = []

    class Model(SmallModel):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            outer = sys.getprofile()
            for _ in range(2):  # the first declares the name
                calls.clear()
                sys.setprofile(watch)
                self.log("loss", loss, on_step=True, on_epoch=True)
                sys.setprofile(outer)
            return loss

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and of_framework(frame):
            calls.append(frame.f_code.co_name)

    quiet_trainer(tmp_path).fit(Model(), torch.ones(1, 3, 2))
    assert "log" in calls
    assert len(calls) <= 10, calls


def test_a_reader_follows_a_batch_to_the_optimizer_through_four_files(tmp_path):
    paths: list[list[str]] = []

    class Model(SmallModel):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            optimizer.register_step_pre_hook(lambda *_: note())
            return optimizer

    def note() -> None:
        names = [Path(f.f_code.co_filename).relative_to(PACKAGE).as_posix() for f in stack() if of_framework(f)]
        paths.append([name for name, _ in groupby(names)])

    quiet_trainer(tmp_path).fit(Model(), torch.ones(1, 3, 2))
    assert paths == [["trainer/trainer.py", "trainer/run.py", "loops/fit.py", "loops/step.py"]]


SLOW_CALLS = {"item", "tolist", "numpy", "cpu", "synchronize"}
SLOW_FILES = {"inspect.py", "contextlib.py"}


@pytest.mark.parametrize("model", [SmallModel, Logging])
def test_within_the_loop_nothing_waits_for_the_device_or_looks_at_signatures(tmp_path, model):
    found: list[str] = []
    seen = 0

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal seen
        seen += 1
        if event == "c_call" and of_framework(frame) and argument.__name__ in SLOW_CALLS:
            found.append(argument.__name__)
        if event == "call" and of_framework(frame.f_back) and Path(frame.f_code.co_filename).name in SLOW_FILES:
            found.append(frame.f_code.co_filename)

    quiet_trainer(tmp_path).fit(model(), Watching(watch))
    assert seen > 50
    assert found == []

"""The watch of the ranks over each other: it ends no run that is well, and traced collectives say where ranks part."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch
from torch import nn

from leyden_ddp.strategy import DDPStrategy
from leyden_ddp.tracing import CollectiveMismatchError
from leyden_testing.breaking import Breaking, Broken
from leyden_testing.forking import PATIENCE, by_hand, codes
from leyden_testing.reporting import Model, Validated, loader, quiet
from leyden_testing.training import same_weights

PAUSE = 2.6  # seconds: five looks of the watch


def hold_the_interpreter():
    """Let no other thread run, as some extensions do."""
    ctypes.PyDLL(None).usleep(int(PAUSE * 1e6))


def stop_the_process():
    """As a debugger of processes does, or the terminal's Ctrl-Z."""
    subprocess.Popen(["/bin/sh", "-c", f"sleep {PAUSE}; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)


def wait_for_input():
    """As a debugger of Python does."""
    with os.popen(f"sleep {PAUSE}; echo c") as terminal:
        terminal.read()


PAUSES = {
    "sleeps": lambda: time.sleep(PAUSE),
    "holds the interpreter": hold_the_interpreter,
    "is stopped": stop_the_process,
    "waits for input": wait_for_input,
}


class Slow(Validated):
    """One rank takes its time at a place, while the others wait for it."""

    def __init__(self, where, how):
        super().__init__()
        self.where, self.how = where, how

    def come_to(self, place):
        if place == self.where and self.global_rank == 1:
            self.where = ""
            PAUSES[self.how]()

    def training_step(self, batch, batch_idx):
        self.come_to("training_step")
        x, y, _ = batch
        return nn.functional.mse_loss(self.layer(x), y)

    def on_after_backward(self):
        self.come_to("on_after_backward")

    def on_fit_end(self):
        self.come_to("on_fit_end")


@pytest.mark.parametrize(
    ("where", "how"),
    [
        ("training_step", "sleeps"),
        ("training_step", "holds the interpreter"),
        ("training_step", "is stopped"),
        ("on_after_backward", "waits for input"),
        ("on_fit_end", "sleeps"),
    ],
)
def test_a_rank_may_take_its_time(tmp_path, where, how):
    model = Slow(where, how)
    trainer, reporter = quiet(tmp_path)
    trainer.fit(model, loader(8), loader(8))
    assert [report["steps"] for report in reporter.reports()] == [2, 2]


@pytest.mark.slow
def test_a_rank_that_was_stuck_and_then_says_nothing_is_not_taken_for_stuck(tmp_path):
    class Late(Model):
        def on_train_start(self):
            strategy = self.trainer.strategy
            if self.global_rank == 0:
                time.sleep(PAUSE)
            strategy.barrier("both are stuck here for a while")
            if self.global_rank == 1:
                hold_the_interpreter()
            strategy.barrier("and then rank 0 here")

    trainer, reporter = quiet(tmp_path)
    trainer.fit(Late(), loader(8))
    assert [report["steps"] for report in reporter.reports()] == [2, 2]


def test_many_short_runs_in_a_row(tmp_path):
    def script():
        model = Validated()
        for _ in range(8):
            trainer, _ = quiet(tmp_path, strategy="ddp")
            trainer.fit(model, loader(4), loader(4))
            trainer.test(model, loader(4), verbose=False)
        assert trainer.global_step == 1

    assert codes(by_hand(script, tmp_path)) == [0, 0]


def test_a_run_may_be_tried_again_after_an_error(tmp_path):
    def script():
        model = Breaking(tmp_path / "run", "training_step")
        trainer, _ = quiet(tmp_path, strategy="ddp")
        try:
            trainer.fit(Misfit(), loader(4), loader(4))
        except ArithmeticError:
            model.where = "nowhere"
            trainer.fit(model, loader(4), loader(4))

    class Misfit(Validated):
        def on_fit_start(self):
            raise ArithmeticError("all fail here, before any waits for another")

    assert codes(by_hand(script, tmp_path)) == [0, 0]


def test_watching_costs_next_to_nothing(tmp_path):
    class Idle(Model):
        def on_train_start(self):
            began = time.process_time()
            time.sleep(PAUSE)
            self.report = {"cost": (time.process_time() - began) / PAUSE}

    trainer, reporter = quiet(tmp_path)
    trainer.fit(Idle(), loader(4))
    assert max(report["cost"] for report in reporter.reports()) < 0.02  # of a processor


@pytest.fixture
def traced(monkeypatch):
    monkeypatch.setenv("LEYDEN_DEBUG_COLLECTIVES", "1")


def line_of(text):
    """The line of this file that holds a text."""
    with open(__file__) as file:
        return next(number for number, line in enumerate(file, 1) if text in line)


class Apart(Model):
    """One rank does what the other does not.

    Args:
        rank: Which.
        what: What it does; the other goes on to its next collective, or does ``instead``.
    """

    def __init__(self, rank, what, instead=lambda module: None):
        super().__init__()
        self.rank, self.what, self.instead = rank, what, instead

    def training_step(self, batch, batch_idx):
        if batch_idx == 1:
            (self.what if self.global_rank == self.rank else self.instead)(self)
        x, y, _ = batch
        return nn.functional.mse_loss(self.layer(x), y)


def log_alone(module):
    module.log("alone", 1.0, sync_dist=True)  # logged by one


def come_to_barrier(module):
    module.trainer.strategy.barrier("here")  # the barrier


def gather(module):
    module.all_gather(torch.ones(2))  # gathered


@pytest.mark.usefixtures("traced")
class TestTracedCollectives:
    @pytest.mark.parametrize("rank", [0, 1])
    def test_what_is_logged_by_one_rank_only_is_named_with_both_lines(self, tmp_path, rank):
        with pytest.raises(CollectiveMismatchError) as raised:
            quiet(tmp_path)[0].fit(Apart(rank, log_alone), loader(16))
        said = str(raised.value)
        here = f"reduce('mean') of float64[3] at {__file__}:{line_of('# logged by one')} in log_alone"
        assert here in said
        assert f"rank {1 - rank} " in said
        assert "gradients at " in said

    @pytest.mark.parametrize("rank", [0, 1])
    def test_a_barrier_is_no_gathering(self, tmp_path, rank):
        with pytest.raises(CollectiveMismatchError) as raised:
            quiet(tmp_path)[0].fit(Apart(rank, come_to_barrier, gather), loader(16))
        said = str(raised.value)
        barrier = f"barrier('here') at {__file__}:{line_of('# the barrier')} in come_to_barrier"
        gathered = f"all_gather of float32[2] at {__file__}:{line_of('# gathered')} in gather"
        one, other = (barrier, gathered) if f"rank {rank} is about" in said else (gathered, barrier)
        assert f"is about to enter {one}, but rank " in said
        assert other in said

    def test_tensors_of_different_sizes(self, tmp_path):
        def gather_more(module):
            module.all_gather(torch.ones(3))

        with pytest.raises(
            CollectiveMismatchError, match=r"all_gather of float32\[[23]\].*all_gather of float32\[[32]\]"
        ):
            quiet(tmp_path)[0].fit(Apart(0, gather, gather_more), loader(16))

    def test_a_rank_that_comes_to_none_is_named_with_its_last(self, tmp_path):
        strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=5))
        with pytest.raises(CollectiveMismatchError) as raised:
            quiet(tmp_path, strategy=strategy)[0].fit(
                Apart(0, come_to_barrier, lambda _: threading.Event().wait(PATIENCE)), loader(16)
            )
        said = str(raised.value)
        assert "rank 0 is about to enter barrier('here')" in said
        assert "rank 1, whose last was gradients at " in said
        assert said.endswith("came to none within 5 s.")

    def test_a_failure_elsewhere_is_told_as_ever(self, tmp_path):
        def fail(module):
            raise Broken("not about collectives", 1)

        with pytest.raises(Broken):
            quiet(tmp_path)[0].fit(Apart(1, fail), loader(16))

    def test_a_rank_that_is_alone_in_one(self, tmp_path):
        class Alone(Model):
            def test_step(self, batch, batch_idx):
                if self.global_rank == 0:
                    self.all_gather(torch.ones(()))

        with pytest.raises(CollectiveMismatchError, match=r"all_gather of float32\[\] at .* in test_step"):
            quiet(tmp_path)[0].test(Alone(), loader(4))

    def test_a_run_that_is_well_is_the_same(self, tmp_path, monkeypatch):
        model, usual = Validated(), Validated()
        options = {"max_epochs": 2, "accumulate_grad_batches": 2}
        quiet(tmp_path, **options)[0].fit(model, loader(16), loader(6))
        monkeypatch.setenv("LEYDEN_DEBUG_COLLECTIVES", "0")
        quiet(tmp_path, **options)[0].fit(usual, loader(16), loader(6))
        assert same_weights(model, usual)
        assert not same_weights(model, Validated(), 1e-6)


def test_the_name_of_a_place_is_the_callers(tmp_path):
    from leyden_ddp.tracing import place

    assert place() == f"at {__file__}:{sys._getframe().f_lineno} in test_the_name_of_a_place_is_the_callers"

"""The watch of the ranks over each other: it ends no run that is well, and traced collectives say where ranks part."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.multiprocessing import ProcessExitedException

from leyden_ddp import parallel, strategy
from leyden_ddp.failure import PeerFailedError
from leyden_ddp.loop_thread import LoopThread
from leyden_ddp.standstill import Position, parting_of
from leyden_ddp.strategy import DDPStrategy
from leyden_ddp.tracing import CollectiveMismatchError
from leyden_testing.breaking import WAYS, Breaking, Broken
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


def reduce_more(module):
    module.trainer.strategy.reduce(torch.ones(50))  # reduced by one


def reduce_less(module):
    module.trainer.strategy.reduce(torch.ones(5))  # reduced by the other


def come_to_pytorchs_barrier(module):
    torch.distributed.barrier()  # PyTorch's own


def keep_a_processor_busy():
    """Compute in a thread for as long as the process lives."""

    def compute():
        while True:
            sum(range(10_000))

    threading.Thread(target=compute, daemon=True).start()


class TestStandstills:
    """Ranks in different collectives end within seconds, with the lines; without ``LEYDEN_DEBUG_COLLECTIVES``."""

    def said(self, directory, module, fn="fit", **options):
        began = time.monotonic()
        with pytest.raises((PeerFailedError, ProcessExitedException)) as raised:
            getattr(quiet(directory, **options)[0], fn)(module, loader(16))
        assert time.monotonic() - began < PATIENCE
        return str(raised.value)

    @pytest.mark.parametrize(
        ("rank", "what", "instead", "lines"),
        [
            (0, log_alone, lambda module: None, ["# logged by one"]),
            (1, log_alone, lambda module: None, ["# logged by one"]),
            (0, gather, come_to_barrier, ["# gathered", "# the barrier"]),
            (1, reduce_more, reduce_less, ["# reduced by one", "# reduced by the other"]),
            (1, come_to_pytorchs_barrier, lambda module: None, ["# PyTorch's own"]),
        ],
    )
    def test_of_ranks_in_different_collectives_of_a_step(self, tmp_path, rank, what, instead, lines):
        said = self.said(tmp_path, Apart(rank, what, instead))
        assert re.search("[Rr]ank 0.*[Rr]ank 1|[Rr]ank 1.*[Rr]ank 0", said.replace("\n", " "))
        for text in lines:
            assert f"{__file__}:{line_of(text)} in " in said

    def test_of_ranks_of_which_other_threads_compute(self, tmp_path):
        class Busy(Apart):
            def on_train_start(self):
                keep_a_processor_busy()

        said = self.said(tmp_path, Busy(0, come_to_barrier))
        assert f"rank 0 came to barrier('here') at {__file__}:{line_of('# the barrier')} in come_to_barrier" in said

    def test_of_a_rank_in_the_constructor_of_ddp(self, tmp_path, monkeypatch):
        def construct(module, **options):
            if module.strategy.global_rank == 1:
                module.strategy.barrier("before")
            return usual(module, **options)

        usual = strategy.DistributedDataParallel
        monkeypatch.setattr(strategy, "DistributedDataParallel", construct)
        said = self.said(tmp_path, Model())
        assert "Rank 0 waits for the others in the set-up of DistributedDataParallel, and rank 1 in barrier('b" in said
        assert f"Rank 0 is at {__file__}:" in said

    def test_of_a_rank_that_is_still_in_a_collective_of_the_run_before(self, tmp_path):
        def script():
            trainer, _ = quiet(tmp_path, strategy="ddp")
            trainer.fit(Model(), loader(4))
            if trainer.global_rank == 0:
                trainer.strategy.barrier("after the run")
            trainer.test(Model(), loader(4), verbose=False)

        processes = by_hand(script, tmp_path)
        assert codes(processes) == [1, 1]
        assert "barrier('after the run')" in processes[0].said
        assert "all_gather_object" in processes[0].said

    @pytest.mark.parametrize("how", ["raises", "is killed"])
    def test_of_ranks_that_connect(self, tmp_path, monkeypatch, how):
        def connect(store, backend, rank, *more):
            if rank == 1:
                WAYS[how]()
            usual(store, backend, rank, *more)

        usual = parallel.connect
        monkeypatch.setattr(parallel, "connect", connect)
        began = time.monotonic()
        with pytest.raises(Broken if how == "raises" else ProcessExitedException):
            quiet(tmp_path)[0].fit(Model(), loader(4))
        assert time.monotonic() - began < PATIENCE


def position(run=1, kind="reduce", first=0, last=0):
    return Position(run, 1, kind, kind, "", None, 0, first, last)


@given(first=st.integers(0, 5), own=st.integers(0, 3), later=st.integers(0, 5), others=st.integers(0, 3))
def test_ranks_exclude_each_other_at_the_same_operation_only(first, own, later, others):
    one, other = position(first=first, last=first + own), position(kind="barrier", first=later, last=later + others)
    operations = [set(range(p.first, max(p.first + 1, p.last))) for p in (one, other)]
    assert one.excludes(other) == other.excludes(one) == bool(set.intersection(*operations))
    assert not one.excludes(one._replace(last=first + 9))


@given(st.lists(st.sampled_from("ab"), max_size=9), st.lists(st.sampled_from("ab"), max_size=9), st.integers(1, 4))
def test_the_first_collective_that_differs_is_found(one, other, forgotten):
    histories = {
        rank: {n: (kind, kind, f"at {n}") for n, kind in enumerate(kinds, 1)} for rank, kinds in ((0, one), (3, other))
    }
    differ = [n for n, (a, b) in enumerate(zip(one, other, strict=False), 1) if a != b]
    found = parting_of(histories)
    assert (found is not None) == bool(differ)
    if found is not None:
        assert (found.one, found.other, found.earlier) == (0, 3, False)
        assert found.here == f"{one[differ[0] - 1]} at {differ[0]}"
    late = parting_of({rank: {n: e for n, e in known.items() if n > forgotten} for rank, known in histories.items()})
    assert (late is not None) == any(n > forgotten for n in differ)
    if late is not None:
        assert late.earlier == (forgotten + 1 in differ)


def test_a_thread_that_waits_is_told_from_one_that_computes():
    wanted, threads = threading.Event(), []

    def run(work):
        threads.append(LoopThread())
        work()

    def compute():
        while not wanted.is_set():
            sum(range(10_000))

    started = [threading.Thread(target=run, args=(work,)) for work in (wanted.wait, compute)]
    for thread in started:
        thread.start()
    until = time.monotonic() + PATIENCE
    while len(threads) < 2 or not threads[0].waits():
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.3)
    waits, computes = threads[0].waits(), threads[1].waits()
    wanted.set()
    for thread in started:
        thread.join()
    assert (waits, computes) == (True, False)
    assert threads[0].collective() is None


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

"""Whatever breaks in one rank, all end within seconds, the first cause is what the caller gets, and nothing is left."""

import os
import re
import signal
import threading
import time
from datetime import timedelta

import pytest
import torch
from torch import nn
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.utils.data import DataLoader

from leyden.callbacks import ModelCheckpoint
from leyden.utilities.rank_zero import rank_zero_only
from leyden_cpu.accelerator import CPUAccelerator
from leyden_ddp import meeting
from leyden_ddp.failure import PeerFailedError
from leyden_ddp.strategy import DDPStrategy
from leyden_testing.breaking import WAYS, BadRows, Breaking, Broken, break_in
from leyden_testing.forking import PATIENCE, Forked, by_hand, codes, is_alive, wait_for, wait_for_end
from leyden_testing.reporting import Model, Validated, loader, quiet

WITHIN_FIT = [
    "setup", "on_train_batch_start", "training_step", "backward", "on_train_batch_end", "validation_step",
    "on_train_end", "on_fit_end", "teardown",
]  # fmt: skip
TORN = pytest.mark.flaky(
    reruns=1, reason="PyTorch may notice a killed worker by its torn connection first, and then doesn't name it"
)


class TestOneRankRaises:
    @pytest.mark.parametrize("where", WITHIN_FIT)
    @pytest.mark.parametrize("rank", [0, 1])
    def test_and_the_caller_gets_its_error_with_its_rank_and_traceback(self, tmp_path, where, rank):
        model = Breaking(tmp_path / "run", where, "raises", rank)
        error = break_in(model)
        assert type(error) is Broken
        assert error.args == ("it broke", 7)
        assert isinstance(error.__cause__, ProcessRaisedException)
        assert f"Rank {rank} failed:" in str(error.__cause__)
        assert 'raise Broken("it broke", 7)' in str(error.__cause__)
        assert model.told(rank) == "Broken: ('it broke', 7)"
        assert model.told(1 - rank).startswith(f"PeerFailedError: Rank {rank} failed first:\nTraceback")

    def test_in_on_exception_too_and_the_first_error_counts(self, tmp_path):
        class Twice(Breaking):
            def on_exception(self, exception):
                super().on_exception(exception)
                if self.global_rank == 1:
                    raise RuntimeError("and the hook for it broke as well")

        error = break_in(Twice(tmp_path / "run", "training_step"))
        assert type(error) is Broken

    def test_an_error_that_cannot_be_pickled_comes_as_text(self, tmp_path):
        class Local(Exception):
            pass

        def fail():
            raise Local("nobody else knows this type")

        error = break_in(Breaking(tmp_path / "run", "training_step", fail))
        assert isinstance(error, ProcessRaisedException)
        assert "Rank 1 failed" in str(error)
        assert "nobody else knows this type" in str(error)

    @pytest.mark.parametrize(
        ("how", "said"), [("raises", "it broke"), pytest.param("is killed", "DataLoader worker", marks=TORN)]
    )
    def test_because_of_a_worker_of_its_loader(self, tmp_path, how, said):
        train = DataLoader(BadRows(how), 2, num_workers=1)
        error = break_in(Breaking(tmp_path / "run", "nowhere"), train)
        assert said in str(error)
        assert not isinstance(error, PeerFailedError)

    def test_where_all_do_each_has_its_own_error(self, tmp_path):
        class All(Breaking):
            def training_step(self, batch, batch_idx):
                raise Broken("each breaks", 3)

        model = All(tmp_path / "run", "nowhere")
        assert type(break_in(model)) is Broken
        assert [model.told(rank) for rank in (0, 1)] == ["Broken: ('each breaks', 3)"] * 2

    def test_out_of_memory(self, tmp_path):
        error = break_in(Breaking(tmp_path / "run", "training_step", "has no memory"))
        assert "can't allocate memory" in str(error)

    def test_sys_exit_ends_all_with_its_code(self, tmp_path):
        error = break_in(Breaking(tmp_path / "run", "training_step", "leaves"))
        assert isinstance(error, SystemExit)
        assert error.code == 5

    def test_an_interruption_of_one_rank_ends_all(self, tmp_path):
        model = Breaking(tmp_path / "run", "training_step", "is interrupted")
        error = break_in(model)
        assert isinstance(error, KeyboardInterrupt)
        assert model.told(1).startswith("KeyboardInterrupt")
        assert "Rank 1 was interrupted from the keyboard" in model.told(0)


class TestOneRankIsKilled:
    @pytest.mark.parametrize("where", ["setup", "training_step", "backward", "validation_step"])
    @pytest.mark.parametrize("rank", [0, 1])
    def test_and_the_other_ends_with_its_name(self, tmp_path, where, rank):
        model = Breaking(tmp_path / "run", where, "is killed", rank)
        error = break_in(model)
        assert isinstance(error, ProcessExitedException)
        assert f"The process of rank {rank} was ended by SIGKILL, as the system does when memory runs out" in str(error)
        assert re.match(
            rf"PeerFailedError: Rank {rank} failed first:\nThe process of rank {rank} \(", model.told(1 - rank)
        )

    @pytest.mark.parametrize("rank", [0, 1])
    def test_while_the_other_is_in_its_hook_for_an_exception(self, tmp_path, rank):
        class Slow(Breaking):
            def on_exception(self, exception):
                super().on_exception(exception)
                if self.global_rank == rank:
                    wait_for(self.directory / f"exception-{1 - rank}")
                    os.kill(os.getpid(), signal.SIGKILL)
                (self.directory / "hooked").write_text("through")

        model = Slow(tmp_path / "run", "training_step", "raises", 1 - rank)
        error = break_in(model)
        assert type(error) is Broken
        assert (model.directory / "hooked").exists()

    def test_or_ends_without_a_word(self, tmp_path):
        error = break_in(Breaking(tmp_path / "run", "training_step", "exits"))
        assert isinstance(error, ProcessExitedException)
        assert error.exit_code == 3
        assert "The process of rank 1 ended with code 3 without an error message" in str(error)

    def test_and_the_others_workers_are_ended_too(self, tmp_path):
        class Stuck(Breaking):
            def validation_step(self, batch, batch_idx):
                super().validation_step(batch, batch_idx)
                if self.global_rank == 0 and batch_idx == 1:  # waits where no collective tells it of the other
                    workers = [str(child.pid) for child in torch.multiprocessing.active_children()]
                    (self.directory / "workers").write_text(" ".join(workers))
                    threading.Event().wait()

        model = Stuck(tmp_path / "run", "validation_step", "is killed")
        with pytest.raises(ProcessExitedException, match="rank 1 was ended by SIGKILL"):
            quiet(model.directory)[0].fit(model, loader(8), loader(16, num_workers=1))
        workers = list(map(int, (model.directory / "workers").read_text().split()))
        assert len(workers) == 1
        assert not any(map(is_alive, [*workers, *model.pids()]))


class Stopping(Model):
    """Asks to stop in one rank only."""

    def training_step(self, batch, batch_idx):
        if self.global_rank == 1 and batch_idx == 1:
            self.trainer.should_stop = True
        x, y, _ = batch
        return nn.functional.mse_loss(self.layer(x), y)


class TestRanksPart:
    """The backend may end a process for it, or leave all waiting; both are told with the lines where they parted."""

    def fit(self, directory, model, rows):
        with pytest.raises((PeerFailedError, ProcessExitedException), match="They parted where rank") as raised:
            quiet(directory)[0].fit(model, loader(rows))
        return str(raised.value)

    def test_one_stops_early(self, tmp_path):
        said = self.fit(tmp_path, Stopping(), 40)
        assert re.search(rf"rank 0 to (the \w+ pass|reduce).* at {__file__}:\d+ in fit", said.replace("came ", ""))

    @pytest.mark.filterwarnings("ignore:training_step returned None")
    @pytest.mark.parametrize("rank", [0, 1])
    def test_one_skips_its_last_backward_pass(self, tmp_path, rank):
        class Skipping(Stopping):
            def training_step(self, batch, batch_idx):
                x, y, _ = batch
                return None if (self.global_rank, batch_idx) == (rank, 3) else nn.functional.mse_loss(self.layer(x), y)

        said = self.fit(tmp_path, Skipping(), 16)
        assert f"rank {1 - rank} to the backward pass at {__file__}:" in said.replace("came ", "")

    @pytest.mark.parametrize("rank", [0, 1])
    def test_one_has_ended_its_run(self, tmp_path, rank):
        class Late(Model):
            def on_train_end(self):
                if self.global_rank == rank:
                    self.trainer.strategy.barrier("alone")

        said = (
            rf"Rank {1 - rank} ended its run after 2 training batches, and rank {rank} waits for it in barrier\('alone'"
        )
        with pytest.raises(PeerFailedError, match=said) as raised:
            quiet(tmp_path)[0].fit(Late(), loader(8))
        assert f"rank {rank} to barrier('alone') at {__file__}:" in str(raised.value).replace("came ", "")

    def test_one_ends_its_epoch_by_a_hook(self, tmp_path):
        model = Breaking(tmp_path / "run", "on_train_batch_start", lambda: -1)
        error = break_in(model)
        assert "Rank 0 waits for the others in the forward pass of DistributedDataParallel, and rank 1 in " in str(
            error
        )
        assert "LEYDEN_DEBUG_COLLECTIVES=1" in str(error)

    def test_one_enters_another_collective(self, tmp_path):
        class Apart(Model):
            def test_step(self, batch, batch_idx):
                strategy = self.trainer.strategy
                if self.global_rank == 0:
                    strategy.barrier("here")
                else:
                    strategy.barrier("there")
                    strategy.barrier("and there")

        said = r"where rank 0 came to .*, and rank 1 to barrier\('and there'\) at .*\.py:\d+ in test_step"
        with pytest.raises(PeerFailedError, match=said):
            quiet(tmp_path)[0].test(Apart(), loader(4))


def test_after_a_failure_the_caller_may_fit_again(tmp_path):
    model = Breaking(tmp_path / "run", "training_step")
    trainer, _ = quiet(tmp_path)
    with pytest.raises(Broken):
        trainer.fit(model, loader(16), loader(16))
    assert trainer.state.status != "finished"
    model.where = "nowhere"
    trainer.fit(model, loader(16), loader(16))
    assert trainer.global_step == 4
    other, _ = quiet(tmp_path)
    other.fit(Model(), loader(16))
    assert other.global_step == 4
    assert "MASTER_PORT" not in os.environ


@pytest.mark.filterwarnings("ignore:The checkpoint holds the state of callbacks")
@pytest.mark.parametrize("how", ["raises", "is killed"])
def test_what_is_saved_on_exception_is_whole(tmp_path, how):
    saving = ModelCheckpoint(tmp_path, save_on_exception=True, save_top_k=0)
    model = Breaking(tmp_path / "run", "training_step", how)
    error = break_in(model, callbacks=[saving], enable_checkpointing=True)
    assert type(error) is (Broken if how == "raises" else ProcessExitedException)
    path = next(tmp_path.glob("*.ckpt"))
    trainer, _ = quiet(tmp_path)
    model.where = "nowhere"
    trainer.fit(model, loader(16), loader(16), ckpt_path=path)
    assert trainer.global_step == 4


def together(directory, model, **options):
    """A function that fits a model in a process that was started by hand."""
    return lambda: quiet(directory, strategy="ddp", **options)[0].fit(model, loader(16), loader(16))


class TestStartedByHand:
    def test_rank_0_prints_the_first_cause_and_the_others_a_line(self, tmp_path):
        model = Breaking(tmp_path / "run", "training_step", "raises", 1)
        processes = by_hand(together(tmp_path, model, devices=3), tmp_path, range(3), 3)
        assert codes(processes) == [1, 1, 1]
        said = [process.said for process in processes]
        assert "PeerFailedError: Rank 1 failed first:" in said[0]
        assert "Broken: ('it broke', 7)" in said[0]
        assert "Broken: ('it broke', 7)" in said[1]
        assert "PeerFailedError" not in said[1]
        line = "[rank2]: Rank 2 ends, as rank 1 failed: leyden_testing.breaking.Broken: ('it broke', 7)"
        assert said[2].strip() == line

    @pytest.mark.parametrize("rank", [0, 1])
    def test_one_is_killed(self, tmp_path, rank):
        model = Breaking(tmp_path / "run", "backward", "is killed", rank)
        processes = by_hand(together(tmp_path, model), tmp_path)
        assert sorted(codes(processes)) == [-9, 1]
        said = processes[1 - rank].said
        assert f"The process of rank {rank} ({processes[rank].pid}) was killed" in said
        assert "TCPStore" not in said  # no pages of C++ frames

    @pytest.mark.parametrize("where", ["on_train_end", "on_fit_end", "teardown"])
    def test_sigterm_to_one_at_the_very_end_ends_all_with_its_code(self, tmp_path, where):
        model = Breaking(tmp_path / "run", where, lambda: signal.raise_signal(signal.SIGTERM))
        processes = by_hand(together(tmp_path, model), tmp_path)
        assert codes(processes) == [143, 143]
        assert model.told(0).startswith("SIGTERMException")

    def test_all_are_interrupted(self, tmp_path):
        class Waiting(Breaking):
            def training_step(self, batch, batch_idx):
                if batch_idx == 1:
                    (self.directory / f"ready-{self.global_rank}").write_text("yes")
                    if self.global_rank == 1:
                        threading.Event().wait()
                return super().training_step(batch, batch_idx)

        model = Waiting(tmp_path / "run", "nowhere")
        processes = by_hand(together(tmp_path, model), tmp_path)
        for rank in (0, 1):
            wait_for(model.directory / f"ready-{rank}")
        for process in processes:
            os.kill(process.pid, signal.SIGINT)
        assert codes(processes) == [1, 1]
        assert "KeyboardInterrupt" in model.told(1)
        assert ["Traceback" in process.said for process in processes] == [True, False]  # rank 0 speaks for all

    @pytest.mark.parametrize(
        ("when", "said"),
        [
            ("before", "This rank begins another run, but rank 1 has ended its program"),
            ("within", "Rank 1 has ended its program, and rank 0 is still in a run"),
        ],
    )
    def test_one_goes_home_when_the_other_makes_another_run(self, tmp_path, when, said):
        class Telling(DDPStrategy):
            def all_gather_object(self, value, group=None):
                (tmp_path / f"begun-{self.global_rank}").write_text("yes")
                return super().all_gather_object(value, group)

        def script():
            trainer, _ = quiet(tmp_path, strategy="ddp")
            trainer.fit(Validated(), loader(4), loader(4))
            if trainer.global_rank == 1:
                (tmp_path / "pid").write_text(str(os.getpid()))
                if when == "within":
                    wait_for(tmp_path / "begun-0")
                return
            process = int(wait_for(tmp_path / "pid"))
            if when == "before":
                wait_for_end(process)
            quiet(tmp_path, strategy=Telling())[0].validate(Validated(), loader(4), verbose=False)

        processes = by_hand(script, tmp_path)
        assert codes(processes) == [1, 0]
        assert said in processes[0].said


class TestNotAllCome:
    @staticmethod
    def meeting(directory, seconds=1, **options):
        strategy = DDPStrategy(timeout=timedelta(seconds=seconds))
        return lambda: quiet(directory, strategy=strategy, **options)[0].fit(Model(), loader(16))

    def test_the_missing_are_named_on_rank_0_only(self, tmp_path):
        processes = by_hand(self.meeting(tmp_path, seconds=5, devices=4), tmp_path, [0, 1], 4)
        assert codes(processes) == [1, 1]
        assert "After 5 s, 2 of 4 processes have come; missing: rank 2, 3." in processes[0].said
        assert processes[1].said == ""

    def test_without_rank_0(self, tmp_path):
        [process] = by_hand(self.meeting(tmp_path), tmp_path, [1])
        assert process.wait() == 1
        assert "Rank 1 has not reached rank 0 at 127.0.0.1:" in process.said
        assert "[E" not in process.said  # PyTorch's own words

    def test_who_waits_for_whom_is_said_soon(self, tmp_path, monkeypatch):
        monkeypatch.setattr(meeting, "_ANSWER", 0.1)
        processes = by_hand(self.meeting(tmp_path, seconds=5, devices=4), tmp_path, [0, 1], 4)
        processes += by_hand(self.meeting(tmp_path, seconds=5), tmp_path / "other", [1])
        assert codes(processes) == [1, 1, 1]
        assert "Rank 0 waits for rank 2, 3, of 4 ranks. The wait ends after 5 s." in processes[0].said
        assert re.search(
            r"Rank 1 waits for rank 0 at MASTER_ADDR='127.0.0.1', MASTER_PORT=\d+, where", processes[2].said
        )

    def test_at_an_address_that_is_none_of_rank_0(self, tmp_path, monkeypatch):
        monkeypatch.setattr(meeting, "_ANSWER", 0.5)
        [process] = by_hand(self.meeting(tmp_path, seconds=600), tmp_path, [0], MASTER_ADDR="no machine")
        assert process.wait() == 1
        assert (
            "MeetingError: Rank 0 waits for the other ranks at MASTER_ADDR='no machine', MASTER_PORT=" in process.said
        )
        assert (
            "and can't be reached there itself, so that address is the name of no machine that it can find"
            in process.said
        )

    def test_one_raises_before(self, tmp_path):
        def script():
            if os.environ["LOCAL_RANK"] == "1":
                raise ValueError("its part of the script is wrong")
            self.meeting(tmp_path)()

        processes = by_hand(script, tmp_path)
        assert codes(processes) == [1, 1]
        assert "missing: rank 1" in processes[0].said

    @pytest.mark.parametrize("how", ["raises", "is killed"])
    @pytest.mark.parametrize("rank", [0, 1])
    def test_of_forked_ones_at_once_however_long_the_timeout(self, tmp_path, how, rank):
        class Bad(CPUAccelerator):
            def setup_device(self, device):
                if rank_zero_only.rank == rank:
                    WAYS[how]()

        began = time.monotonic()
        with pytest.raises(Broken if how == "raises" else ProcessExitedException):
            quiet(tmp_path, accelerator=Bad())[0].fit(Model(), loader(16))
        assert time.monotonic() - began < PATIENCE


def test_a_process_whose_starter_is_gone_waits_for_nobody(tmp_path):
    def start():
        os.environ["LEYDEN_PARENT_PROCESS"] = str(os.getpid())  # now: it may be gone before its child runs
        if os.fork() == 0:
            (tmp_path / "child").write_text(str(os.getpid()))
            try:
                quiet(tmp_path, strategy="ddp")[0].fit(Model(), loader(4))
            finally:
                os._exit(7)

    starter = Forked(
        start, tmp_path / "said", LOCAL_RANK="1", RANK="1", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="9"
    )
    assert starter.wait() == 0
    wait_for_end(int(wait_for(tmp_path / "child")))

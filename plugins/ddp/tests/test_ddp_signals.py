"""Signals to a run of one process, and ``ckpt_path="hpc"``; for several processes see ``test_ddp_clusters.py``."""

import multiprocessing
import os
import signal
import threading

import pytest
import torch
from torch.utils.data import DataLoader

import leyden as pl
from leyden.callbacks import ModelCheckpoint
from leyden.plugins import SLURMEnvironment
from leyden.utilities.exceptions import SIGTERMException
from leyden_testing.forking import PATIENCE, Forked, wait_for_end
from leyden_testing.reporting import Model, Validated, alone, loader
from leyden_testing.training import quiet_trainer, same_weights


@pytest.fixture
def called():
    """The signals of which a handler of the process's own was told; it is put back afterwards."""
    seen = []
    outer = {}
    for number in (signal.SIGTERM, signal.SIGUSR1):
        outer[number] = signal.signal(number, lambda received, frame: seen.append(received))
    yield seen
    for number, handler in outer.items():
        signal.signal(number, handler)


class Raise(pl.Callback):
    """Sends a signal to its own process.

    Args:
        where: In which hook.
        number: The signal.
        at: After how many steps.
    """

    def __init__(self, where, number=signal.SIGTERM, at=0):
        self.number, self.at, self.told = number, at, []
        setattr(self, where, self.send)

    def send(self, trainer, *args):
        if trainer.global_step == self.at:
            signal.raise_signal(self.number)

    def on_asked_to_end(self, trainer, pl_module, reason):
        self.told.append(reason)


def test_sigterm_ends_a_fit_at_the_next_step_and_the_handler_of_the_process_is_called_and_put_back(tmp_path, called):
    own, sender = signal.getsignal(signal.SIGTERM), Raise("on_after_backward", at=1)
    trainer = alone(tmp_path, callbacks=[sender])
    with pytest.raises(SIGTERMException):
        trainer.fit(Model(), loader(8))
    assert signal.getsignal(signal.SIGTERM) is own
    assert called == [signal.SIGTERM]
    assert trainer.received_sigterm
    assert trainer.global_step == 2
    assert sender.told == ["SIGTERM"]
    assert list(tmp_path.glob("*.ckpt")) == []  # no cluster would run it again


@pytest.mark.filterwarnings("ignore:There is a validation_step and no val_dataloader")
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("fails", [False, True])
def test_handlers_are_put_back_however_a_run_ends(tmp_path, called, stage, fails):
    own, watched = signal.getsignal(signal.SIGTERM), []

    class Watching(Validated):
        def loss(self, batch, stage):
            watched.append(signal.getsignal(signal.SIGTERM) is not own)
            return super().loss(batch, stage) if not fails else 1 / 0

        def predict_step(self, batch, batch_idx):
            return self.loss(batch, "test")

    try:
        getattr(alone(tmp_path), stage)(Watching(), loader(2))
    except ZeroDivisionError:
        assert fails
    assert watched == [True]
    assert signal.getsignal(signal.SIGTERM) is own


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_sigterm_with_no_step_to_come_ends_the_run_that_goes_on(tmp_path, called, stage):
    """It is not forgotten after the last step, nor in an evaluation."""
    sender = Raise("on_train_end", at=1) if stage == "fit" else Raise("on_test_batch_end")
    trainer = alone(tmp_path, callbacks=[sender])
    with pytest.raises(SIGTERMException):
        getattr(trainer, stage)(Model(), loader(2))
    assert trainer.interrupted
    assert sender.told == []


def test_a_handler_that_a_hook_sets_at_the_start_is_called_too(tmp_path, called):
    class Handling(Model):
        def on_fit_start(self):
            signal.signal(signal.SIGTERM, lambda *_: called.append("the model's"))

    with pytest.raises(SIGTERMException):
        alone(tmp_path, callbacks=[Raise("on_after_backward")]).fit(Handling(), loader(4))
    assert called == ["the model's"]


def test_a_run_within_a_hook_of_another_ends_both(tmp_path, called):
    inner = alone(tmp_path / "inner", callbacks=[Raise("on_after_backward")])

    class Outer(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            with pytest.raises(SIGTERMException):
                inner.fit(Model(), loader(4))

    trainer = alone(tmp_path, callbacks=[Outer()])
    with pytest.raises(SIGTERMException):
        trainer.fit(Model(), loader(8))
    assert (inner.global_step, trainer.global_step) == (1, 1)
    assert called == [signal.SIGTERM]


def test_a_trainer_in_another_thread_leaves_signals_alone(tmp_path, called):
    own, seen = signal.getsignal(signal.SIGTERM), []

    class Watching(Model):
        def on_train_start(self):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=lambda: alone(tmp_path).fit(Watching(), loader(2)))
    thread.start()
    thread.join()
    assert seen == [own]


def test_without_the_plugin_signals_are_left_alone(tmp_path, called):
    trainer = alone(tmp_path, callbacks=[Raise("on_after_backward", at=1)])
    trainer.plugin_manager = trainer.plugin_manager.extended([])
    trainer.plugin_manager.infos = [r for r in trainer.plugin_manager.infos if r.name != "ddp"]
    trainer.fit(Model(), loader(8))
    assert (trainer.received_sigterm, trainer.global_step, called) == (False, 4, [signal.SIGTERM])


class Grouped(Validated):
    """Sends a signal to all processes of its session, its loaders' workers among them.

    Args:
        number: The signal.
        rank: The rank that sends it.
    """

    def __init__(self, number=signal.SIGTERM, rank=0):
        super().__init__()
        self.number, self.rank, self.at = number, rank, 3

    def on_train_batch_start(self, batch, batch_idx):
        if self.number and batch_idx == self.at and self.global_rank == self.rank:
            os.killpg(0, self.number)


def train_in_session(tmp_path, number=signal.SIGTERM, **options):
    """Train with workers in a session of its own; returns how it ended, and what it said."""

    def script():
        workers = {"num_workers": 2, "persistent_workers": True}
        saving = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=0, save_on_exception=True)
        trainer = quiet_trainer(tmp_path, callbacks=[saving], enable_checkpointing=True, **options)
        trainer.fit(Grouped(number, trainer.world_size - 1), loader(40, **workers), loader(4, **workers))

    process = Forked(script, tmp_path / "said")
    return process.wait(), process.said


@pytest.mark.filterwarnings("ignore:The checkpoint holds the state of callbacks")
@pytest.mark.parametrize("options", [{}, {"devices": 2, "strategy": "ddp_fork"}], ids=["alone", "two processes"])
def test_sigterm_to_all_processes_of_a_job_ends_it_at_the_next_step(tmp_path, options):
    """In Lightning the workers are killed, and the fit dies with a traceback in whatever it was doing."""
    code, said = train_in_session(tmp_path, **options)
    assert code == 143, said
    assert "Traceback" not in said
    assert "killed by signal" not in said
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["step=4.ckpt"]
    if not options:
        whole, resumed = Grouped(None), Grouped(None)
        alone(tmp_path / "whole").fit(whole, loader(40), loader(4))
        alone(tmp_path / "resumed").fit(resumed, loader(40), loader(4), ckpt_path=tmp_path / "step=4.ckpt")
        assert same_weights(whole, resumed)


def test_an_interruption_of_all_processes_is_one_of_the_run_alone(tmp_path):
    code, said = train_in_session(tmp_path, signal.SIGINT)
    assert code == 1
    assert said.count("Traceback") == 1
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["step=3.ckpt"]


def test_a_run_that_was_asked_to_end_is_saved_when_it_is_asked_again(tmp_path, called):
    """Not all processes of a job get a signal at once, and they end together when one of them has got it."""
    again = Raise("on_exception", at=1)
    saving = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=0, save_on_exception=True)
    callbacks = [Raise("on_after_backward"), again, saving]
    trainer = quiet_trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True)
    own = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which would end the tests
    with pytest.raises(SIGTERMException):
        trainer.fit(Model(), loader(8))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, own)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["step=1.ckpt"]


class Endless(torch.utils.data.Dataset):
    """Rows of which the last never comes."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        while index == 3:
            signal.pause()
        return torch.zeros(4), torch.zeros(2), index


def test_a_worker_that_hangs_is_killed_with_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    rows, workers = DataLoader(Endless(), num_workers=2, prefetch_factor=1), []

    class Watching(Model):
        def on_train_batch_end(self, *_):
            workers[:] = multiprocessing.active_children()

    trainer = alone(tmp_path, max_steps=1)
    trainer.fit(Watching(), rows)
    assert len(workers) == 2
    assert not any(worker.is_alive() for worker in workers)
    assert rows.worker_init_fn is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_worker_starts_does_not_end_it(tmp_path, number):
    starting = Model()  # as long as it lives, each new process calls the function
    multiprocessing.util.register_after_fork(starting, lambda _: os.kill(os.getpid(), number))
    trainer = alone(tmp_path)
    trainer.fit(starting, loader(4, num_workers=1))
    assert trainer.global_step == 2


def test_the_workers_of_a_run_that_is_killed_end(tmp_path):
    def script():
        class Watched(Model):
            def on_train_batch_end(self, *_):
                (tmp_path / "workers").write_text(" ".join(str(one.pid) for one in multiprocessing.active_children()))
                os.kill(os.getpid(), signal.SIGKILL)

        torch.utils.data._utils.worker.MP_STATUS_CHECK_INTERVAL = 0.1  # in which a worker looks for its parent
        alone(tmp_path).fit(Watched(), loader(40, num_workers=2))

    assert Forked(script, tmp_path / "said").wait() == -signal.SIGKILL
    workers = (tmp_path / "workers").read_text().split()
    assert len(workers) == 2
    for pid in map(int, workers):
        wait_for_end(pid)


def test_what_the_user_has_a_worker_do_first_is_done(tmp_path):
    told = multiprocessing.Queue()
    rows = loader(4, num_workers=1, worker_init_fn=told.put)
    alone(tmp_path).fit(Model(), rows)
    assert told.get(timeout=PATIENCE) == 0


@pytest.fixture
def task(monkeypatch, tmp_path):
    """The only task of a SLURM job, in which ``scontrol`` writes down how it is called."""
    script = tmp_path / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n')
    script.chmod(0o755)
    variables = {"NTASKS": "1", "STEP_ID": "0", "JOB_ID": "4711", "NODEID": "0", "NNODES": "1", "PROCID": "0",
                 "LOCALID": "0"}  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    return tmp_path / "requeued"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_job_that_may_run_again_is_saved_and_goes_on(tmp_path, called, task, number):
    options = {"plugins": [SLURMEnvironment()], "max_epochs": 2}
    sender = Raise("on_after_backward", number, at=3)
    with pytest.raises(SIGTERMException):
        alone(tmp_path, callbacks=[sender], **options).fit(Model(), loader(8))
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["hpc_ckpt_1.ckpt"]
    assert task.exists() is (number == signal.SIGUSR1)
    model = Model()
    trainer = alone(tmp_path, **options)
    trainer.fit(model, loader(8))
    assert trainer.ckpt_path == str(tmp_path / "hpc_ckpt_1.ckpt")
    whole = Model()
    alone(tmp_path / "whole", max_epochs=2).fit(whole, loader(8))
    assert same_weights(model, whole)
    trainer.test(model, loader(2), verbose=False)  # with the weights that it is given
    assert trainer.ckpt_path is None


def test_hpc_is_the_newest_that_a_requeue_left(tmp_path):
    for number in (3, 12):
        trainer = alone(tmp_path)
        trainer.fit(Model(), loader(number))
        trainer.save_checkpoint(tmp_path / f"hpc_ckpt_{number}.ckpt")
    newest, model = trainer.lightning_module, Model()
    trainer.test(model, loader(2), ckpt_path="hpc", verbose=False)
    assert trainer.ckpt_path == str(tmp_path / "hpc_ckpt_12.ckpt")
    assert torch.equal(model.layer[0].weight, newest.layer[0].weight)
    trainer.fit(model, loader(2))  # of no cluster's, so that it does not go on from there
    assert trainer.ckpt_path is None


@pytest.mark.filterwarnings("ignore:There is a validation_step and no val_dataloader")
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_hpc_where_there_is_none(tmp_path, stage):
    with pytest.raises(ValueError, match=r'^ckpt_path="hpc": there is no hpc_ckpt_N\.ckpt in '):
        getattr(alone(tmp_path), stage)(Validated(), loader(2), ckpt_path="hpc")

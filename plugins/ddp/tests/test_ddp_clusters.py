"""Signals that end a run, jobs that are queued again, workers that are replaced, and nodes that find each other."""

import json
import os
import signal
import stat
from functools import partial
from pathlib import Path

import pytest
import torch

from leyden import hookimpl
from leyden.callbacks import ModelCheckpoint
from leyden.plugins import SLURMEnvironment
from leyden.utilities.exceptions import SIGTERMException
from leyden_ddp.strategy import DDPStrategy
from leyden_testing.breaking import Breaking
from leyden_testing.forking import Forked, by_hand, codes, is_alive, wait_for
from leyden_testing.ranks import free_port
from leyden_testing.reporting import Model, Validated, alone, loader, quiet
from leyden_testing.training import same_weights

from .networks import Networks, why_no_networks

pytestmark = pytest.mark.filterwarnings(
    "ignore:The checkpoint holds the state of callbacks", "ignore:Checkpoint directory .* is not empty"
)


class Signalled(Validated):
    """Sends its own process a signal once, at a place of a rank, and draws random numbers in every step.

    Args:
        where: "training_step" or "validation_step"; "" for nowhere.
        number: The signal.
        rank: Whose process.
        at: The batch.
    """

    def __init__(self, where="", number=signal.SIGTERM, rank=1, at=2):
        super().__init__()
        self.dropout = torch.nn.Dropout(0.3)
        self.where, self.number, self.rank, self.at = where, number, rank, at
        self.report = {"ended": None}

    def come_to(self, place, batch_idx):
        if (place, batch_idx, self.global_rank) == (
            self.where,
            self.at,
            self.rank,
        ) and not self.trainer.sanity_checking:
            self.where = ""
            os.kill(os.getpid(), self.number)

    def training_step(self, batch, batch_idx):
        self.come_to("training_step", batch_idx)
        x, y, _ = batch
        loss = torch.nn.functional.mse_loss(self.layer(self.dropout(x)), y)
        self.log("train_loss", loss, sync_dist=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.come_to("validation_step", batch_idx)
        super().validation_step(batch, batch_idx)

    def on_exception(self, exception):
        path = Path(self.trainer.default_root_dir, f"ended-{self.global_rank}")
        path.write_text(f"{type(exception).__name__} {self.trainer.progress.total_batches}")


def ends(directory):
    return [path.read_text() for path in sorted(directory.glob("ended-*"))]


def uninterrupted(directory, **options):
    model = Signalled()
    quiet(directory, max_epochs=2, **options)[0].fit(model, loader(24, shuffle=True), loader(6))
    return model


class TestSIGTERM:
    @pytest.mark.parametrize("where", ["training_step", "validation_step"])
    @pytest.mark.parametrize("rank", [0, 1])
    def test_of_one_rank_ends_all_after_the_same_batch_and_nothing_is_lost(self, tmp_path, where, rank):
        saving = ModelCheckpoint(tmp_path, save_on_exception=True, save_top_k=0)
        model = Signalled(where, rank=rank, at=2 if where == "training_step" else 1)
        options = {"max_epochs": 2, "val_check_interval": 2}
        trainer, _ = quiet(tmp_path, callbacks=[saving], enable_checkpointing=True, **options)
        with pytest.raises(SIGTERMException) as ended:
            trainer.fit(model, loader(24, shuffle=True), loader(6))
        assert ended.value.code == 143
        first, second = ends(tmp_path)
        assert first == second
        assert first.startswith("SIGTERMException")
        assert 2 <= int(first.split()[1]) <= 5  # at once, or when the other rank has heard of it
        resumed = Signalled()
        [path] = tmp_path.glob("*.ckpt")
        quiet(tmp_path, **options)[0].fit(resumed, loader(24, shuffle=True), loader(6), ckpt_path=path)
        assert same_weights(resumed, uninterrupted(tmp_path / "whole", val_check_interval=2))

    def test_in_the_last_batch_is_obeyed_too(self, tmp_path):
        with pytest.raises(SIGTERMException):
            quiet(tmp_path)[0].fit(Signalled("training_step", at=11), loader(48), loader(2))

    def test_of_the_calling_process_is_passed_on(self, tmp_path):
        class Ready(Signalled):
            def on_train_batch_end(self, outputs, batch, batch_idx):
                (tmp_path / f"ready-{self.global_rank}").write_text("yes")

        process = Forked(
            lambda: quiet(tmp_path, max_epochs=-1)[0].fit(Ready(), loader(24), loader(2)), tmp_path / "said"
        )
        for rank in (0, 1):
            wait_for(tmp_path / f"ready-{rank}")
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait() == 143
        assert len(set(ends(tmp_path))) == 1

    def test_in_an_evaluation_ends_it_when_its_pass_is_over(self, tmp_path):
        class Tested(Signalled):
            def test_step(self, batch, batch_idx):
                self.come_to("test_step", batch_idx)

        with pytest.raises(SIGTERMException):
            quiet(tmp_path)[0].test(Tested("test_step", at=1), loader(16))
        assert [ended.split()[0] for ended in ends(tmp_path)] == ["SIGTERMException"] * 2


def of_slurm(function, directory, bin_directory):
    """Two processes as the tasks of ``srun``."""
    common = {
        "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "4711", "SLURM_NODEID": "0", "SLURM_NNODES": "1",
        "SLURM_STEP_NODELIST": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "PATH": f"{bin_directory}:{os.environ['PATH']}",
    }  # fmt: skip
    return [
        Forked(function, directory / f"said-{rank}", SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), **common)
        for rank in (0, 1)
    ]


@pytest.fixture
def scontrol(tmp_path):
    """A folder for PATH with an ``scontrol`` that writes down how it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$SLURM_PROCID: $@" >> {tmp_path}/requeued\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.mark.parametrize("asked", ["the rank that speaks", "another rank", "all"])
def test_a_slurm_job_is_saved_once_queued_again_and_goes_on(tmp_path, scontrol, asked):
    class Asked(Signalled):
        def come_to(self, place, batch_idx):
            first_life = not list(tmp_path.glob("*.ckpt"))
            ranks = {"the rank that speaks": [0], "another rank": [1], "all": [0, 1]}[asked]
            if first_life and (place, batch_idx) == ("training_step", 2) and self.global_rank in ranks:
                os.kill(os.getpid(), signal.SIGUSR1)

    def script():
        model = Asked()
        quiet(tmp_path, strategy="ddp", max_epochs=2)[0].fit(model, loader(24, shuffle=True), loader(6))
        torch.save(model.state_dict(), tmp_path / f"final-{model.global_rank}")

    def start():
        return codes(of_slurm(script, tmp_path, scontrol))

    assert start() == [143, 143]
    assert len(set(ends(tmp_path))) == 1
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["hpc_ckpt_1.ckpt"]
    assert (tmp_path / "requeued").read_text() == "0: requeue 4711\n"
    assert start() == [0, 0]
    assert (tmp_path / "requeued").read_text().count("requeue") == 1
    whole = uninterrupted(tmp_path / "whole").state_dict()
    for rank in (0, 1):
        final = torch.load(tmp_path / f"final-{rank}")
        assert all(torch.equal(final[name], whole[name]) for name in whole)


def test_a_slurm_job_that_is_not_to_be_queued_again_takes_no_notice(tmp_path, scontrol):
    def script():
        environment = SLURMEnvironment(auto_requeue=False)
        signal.signal(signal.SIGUSR1, lambda *_: (tmp_path / "users_own").write_text("called"))
        model = Signalled("training_step", signal.SIGUSR1)
        quiet(tmp_path, strategy="ddp", plugins=[environment])[0].fit(model, loader(24), loader(2))

    assert codes(of_slurm(script, tmp_path, scontrol)) == [0, 0]
    assert (tmp_path / "users_own").exists()
    assert not (tmp_path / "requeued").exists()


class TestTorchrun:
    """By its agent and its rendezvous; only that workers are forked saves them from importing PyTorch."""

    @staticmethod
    def launch(function, workers=2, restarts=0):
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=workers, run_id="test", rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0", max_restarts=restarts, monitor_interval=0.1, start_method="fork",
        )  # fmt: skip
        return elastic_launch(config, function)()

    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["raises", "is killed"])
    def test_a_worker_that_fails_ends_all(self, tmp_path, how):
        model = Breaking(tmp_path / "run", "training_step", how)

        def script():
            quiet(tmp_path, strategy="ddp")[0].fit(model, loader(16), loader(16))

        process = Forked(lambda: self.launch(script), tmp_path / "said")
        assert codes([process]) == [1]
        assert not any(map(is_alive, model.pids()))
        reasons = {"raises": "Broken: ('it broke', 7)", "is killed": "Signal 9 (SIGKILL)"}
        assert reasons[how] in process.said

    @pytest.mark.slow
    @pytest.mark.parametrize("rank", [0, 1])
    def test_a_worker_that_is_killed_is_replaced_and_the_run_goes_on_from_its_newest_checkpoint(self, tmp_path, rank):
        def script():
            life = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
            saving = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True)
            trainer, _ = quiet(tmp_path, strategy="ddp", max_epochs=2, callbacks=[saving], enable_checkpointing=True)
            model = Signalled("training_step" if life < 2 else "", signal.SIGKILL, rank, at=2 + life)
            trainer.fit(model, loader(24, shuffle=True), loader(6), ckpt_path="last" if life else None)
            torch.save(model.state_dict(), tmp_path / f"final-{trainer.global_rank}")
            (tmp_path / "lives").write_text(str(life))

        process = Forked(lambda: self.launch(script, restarts=2), tmp_path / "said")
        assert codes([process]) == [0], process.said
        assert (tmp_path / "lives").read_text() == "2"
        whole = uninterrupted(tmp_path / "whole").state_dict()
        for other in (0, 1):
            final = torch.load(tmp_path / f"final-{other}")
            assert all(torch.equal(final[name], whole[name]) for name in whole)

    @pytest.mark.slow
    @pytest.mark.parametrize("workers", [1, 3])
    def test_a_run_goes_on_with_another_number_of_processes(self, tmp_path, workers):
        def script(life):
            saving = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True)
            trainer, _ = quiet(
                tmp_path, strategy=DDPStrategy(), devices=int(os.environ["WORLD_SIZE"]), max_epochs=2,
                callbacks=[saving], enable_checkpointing=True,
            )  # fmt: skip
            model = Signalled("training_step" if life == 0 else "", signal.SIGKILL, rank=1)
            trainer.fit(model, loader(24), loader(6), ckpt_path="last" if life else None)

        first = Forked(lambda: self.launch(lambda: script(0)), tmp_path / "said")
        assert codes([first]) == [1]
        assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
        second = Forked(lambda: self.launch(lambda: script(1), workers), tmp_path / "said")
        assert codes([second]) == [0], second.said
        reports = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("fit-*.json"))]
        left = 24 - 8  # rows of the first epoch that the two processes had not seen in their two steps
        assert [report["steps"] for report in reports] == [2 + (left + 24) // (2 * workers) + (workers == 3)] * workers


@pytest.fixture
def networks():
    if reason := why_no_networks():
        pytest.skip(reason)
    made = Networks()
    made.make()
    yield made
    made.remove()


class TestNodes:
    """Each node is a process that makes those of its devices."""

    @staticmethod
    def node(directory, rank, model, val=None, enter=lambda: None, variables=None, **options):
        def script():
            enter()
            trainer, _ = quiet(directory / str(rank), strategy="ddp_fork", num_nodes=2, **options)
            trainer.fit(model, loader(16), val)
            torch.save(model.state_dict(), directory / str(rank) / "final")

        (directory / str(rank)).mkdir()
        return Forked(script, directory / f"said-{rank}", NODE_RANK=str(rank), **(variables or {}))

    @staticmethod
    def trained_as_one(directory, batch_size):
        """Whether both nodes have the weights of a single process with the global batch."""
        single = Model()
        alone(directory / "alone").fit(single, loader(16, batch_size))
        finals = [torch.load(directory / str(rank) / "final") for rank in (0, 1)]
        return all(
            torch.allclose(final[name], value, atol=1e-6)
            for final in finals
            for name, value in single.state_dict().items()
        )

    def test_two_by_hand(self, tmp_path):
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        assert codes([self.node(tmp_path, rank, Model(), variables=meeting) for rank in (0, 1)]) == [0, 0]
        assert self.trained_as_one(tmp_path, 8)
        ranks = [json.loads(path.read_text())["rank"] for path in sorted(tmp_path.glob("?/fit-*.json"))]
        assert ranks == [0, 1, 2, 3]

    @pytest.mark.parametrize("how", ["raises", "is killed"])
    def test_what_fails_on_one_is_told_on_the_other(self, tmp_path, how):
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        model = Breaking(tmp_path / "run", "training_step", how, rank=3)
        nodes = [self.node(tmp_path, rank, model, loader(8), variables=meeting) for rank in (0, 1)]
        assert codes(nodes) == [1, 1]
        assert "PeerFailedError: Rank 3 failed first:" in nodes[0].said
        if how == "raises":
            assert "Rank 3 failed:" in nodes[1].said
            assert "Broken: ('it broke', 7)" in nodes[0].said
        else:
            assert "The process of rank 3 was ended by SIGKILL" in nodes[1].said

    def test_two_in_network_namespaces(self, tmp_path, networks):
        nodes = []
        for rank in (0, 1):
            meeting = {
                "MASTER_ADDR": networks.addresses[0],
                "MASTER_PORT": "29500",
                "GLOO_SOCKET_IFNAME": networks.interfaces[rank],
            }
            enter = partial(networks.enter, rank)
            nodes.append(self.node(tmp_path, rank, Model(), enter=enter, variables=meeting, devices=1))
        assert codes(nodes) == [0, 0]
        assert self.trained_as_one(tmp_path, 4)


class Extra:
    """A plugin that a user gives."""

    @hookimpl
    def on_train_start(self, trainer):
        pass


@pytest.mark.parametrize("case", ["missing in one", "in another order"])
def test_other_plugins_in_one_rank_are_refused(tmp_path, case):
    def second_one():
        other = Extra()
        other.__name__ = "second"
        return other

    def script():
        plugins = [Extra(), second_one()]
        if os.environ["LOCAL_RANK"] == "1":
            plugins = plugins[:1] if case == "missing in one" else plugins[::-1]
        quiet(tmp_path, strategy="ddp", plugins=plugins)[0].fit(Model(), loader(4))

    processes = by_hand(script, tmp_path)
    assert codes(processes) == [1, 1]
    said = processes[0].said.splitlines()[-1]
    assert "MisconfigurationException: The plugins of rank 1 are not those of rank 0, or not in the same order:" in said
    if case == "missing in one":
        assert "rank 0 has plugin 'second' where rank 1 has nothing" in said
    else:
        assert "plugin 'Extra', plugin 'second' where rank 1 has" in said


def test_plugins_of_another_version_in_one_rank_are_refused(tmp_path):
    def script():
        trainer, _ = quiet(tmp_path, strategy="ddp")
        if trainer.global_rank == 1:
            record = next(record for record in trainer.plugin_manager.infos if record.name == "ddp")
            record.version = "0.0.9"
        trainer.fit(Model(), loader(4))

    processes = by_hand(script, tmp_path)
    assert codes(processes) == [1, 1]
    assert (
        "rank 0 has plugin 'ddp' of leyden-ddp 0.1.0 where rank 1 has plugin 'ddp' of leyden-ddp 0.0.9"
        in processes[0].said
    )

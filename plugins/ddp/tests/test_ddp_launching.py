"""Every way to start the processes: by running the script again, by functions, by torchrun; and what is refused."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.multiprocessing import ProcessRaisedException
from torch.utils.data import DataLoader

import leyden as pl
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.utilities.exceptions import MisconfigurationException
from leyden_ddp import launchers
from leyden_ddp.strategy import DDPStrategy
from leyden_testing.breaking import Breaking, Broken
from leyden_testing.forking import PATIENCE, Forked, codes, is_alive, wait_for, wait_for_end
from leyden_testing.ranks import free_port
from leyden_testing.reporting import Model, Validated, alone, loader, quiet
from leyden_testing.training import Rows, same_weights

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from leyden_testing.breaking import Breaking
from leyden_testing.reporting import Validated, loader, quiet

def main(how, folder):
    folder = Path(folder)
    model = Breaking(folder, "training_step" if how == "raises" else "nowhere")
    first, _ = quiet(folder, strategy="ddp")
    other, _ = quiet(folder, strategy="ddp", max_epochs=2)
    first.fit(model, loader(16), loader(16))
    results = first.test(model, loader(7), verbose=False)
    again = Validated()
    other.fit(again, loader(16), loader(16))
    predictions = other.predict(again, loader(7))
    losses = []
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # whose processes are all of one run
        single, _ = quiet(folder, devices=1, strategy="auto")
        losses = single.validate(again, loader(7), verbose=False)
    report = {
        "argv": sys.argv[1:], "steps": [first.global_step, other.global_step], "options": sys.warnoptions,
        "tested": results[0]["test_loss"], "predicted": sum(map(len, predictions)),
        "alone": [loss["val_loss"] for loss in losses],
        "weights": again.layer[0].weight.tolist(), "cwd": os.getcwd(), "parent": os.getppid(), "pid": os.getpid(),
    }
    (folder / f"report-{first.global_rank}.json").write_text(json.dumps(report))

if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:3])
"""


@pytest.fixture
def package(tmp_path):
    """A folder with a package whose module is the script."""
    (tmp_path / "package" / "inner").mkdir(parents=True)
    for part in ("package", "package/inner"):
        (tmp_path / part / "__init__.py").touch()
    script = tmp_path / "package" / "inner" / "train.py"
    script.write_text(SCRIPT)
    return script


def run(*command, cwd, code=0, **more):
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    result = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, **more
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result


@pytest.mark.slow
def test_a_module_is_run_again_with_its_arguments_for_several_trainers(tmp_path, package):
    run("-W", "ignore:nothing", "-m", "package.inner.train", "well", "out", "--lr=0.1", "a b", cwd=tmp_path)
    reports = [json.loads((tmp_path / "out" / f"report-{rank}.json").read_text()) for rank in (0, 1)]
    assert [report["argv"] for report in reports] == [["well", "out", "--lr=0.1", "a b"]] * 2
    assert [report["steps"] for report in reports] == [[4, 8]] * 2
    assert [report["options"] for report in reports] == [["ignore:nothing"]] * 2
    assert reports[0]["weights"] == reports[1]["weights"]
    assert [report["predicted"] for report in reports] == [4, 3]
    assert reports[0]["tested"] == reports[1]["tested"]
    assert reports[0]["alone"] == pytest.approx(reports[1]["alone"])
    assert reports[1]["parent"] == reports[0]["pid"]
    assert not any(is_alive(report["pid"]) for report in reports)


@pytest.mark.slow
def test_a_script_by_its_relative_path_that_fails(tmp_path, package):
    result = run("inner/train.py", "raises", "out", cwd=tmp_path / "package", code=1)
    assert "Started 1 more process(es)" in result.stderr
    assert "[rank0]: leyden_ddp.failure.PeerFailedError: Rank 1 failed first:" in result.stderr
    assert result.stderr.count("[rank1]: Traceback") == 1
    assert "TCPStore" not in result.stderr
    pids = [int((tmp_path / "package" / "out" / f"pid-{rank}").read_text()) for rank in (0, 1)]
    assert not any(map(is_alive, pids))


INTERRUPTED = """
import os, signal, sys, torch
from pathlib import Path
from leyden_testing.reporting import Model, loader, quiet

torch.set_num_threads(1)


class Pressed(Model):
    def on_train_batch_end(self, *args):
        if self.global_step == 1:
            Path(f"at-{self.global_rank}").touch()
            while not (Path("at-0").exists() and Path("at-1").exists()):
                pass
            if self.global_rank == 0:
                os.killpg(0, signal.SIGINT)  # as the terminal does
            signal.pause()


strategy, caught = sys.argv[1:]
try:
    quiet(Path("."), strategy=strategy)[0].fit(Pressed(), loader(16))
except KeyboardInterrupt:
    if caught == "no":
        raise
    print("caught and saved")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "caught", "code"), [("ddp", "no", -signal.SIGINT), ("ddp_fork", "yes", 0)])
def test_ctrl_c_ends_all_processes_and_the_script_as_python_does(tmp_path, strategy, caught, code):
    (tmp_path / "train.py").write_text(INTERRUPTED)
    result = run("train.py", strategy, caught, cwd=tmp_path, code=code, start_new_session=True)
    assert result.stdout.count("caught") == (caught == "yes")
    assert result.stderr.count("Traceback") == (caught == "no"), result.stderr
    assert result.stderr.count("Interrupted: ending the run") == 1


@pytest.mark.slow
def test_the_readmes_script(tmp_path):
    readme = Path(__file__).parents[1] / "README.md"
    script = readme.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    (tmp_path / "train.py").write_text(script)
    said = run("train.py", cwd=tmp_path).stdout
    losses = [re.search(rf"rank {rank}: (0\.\d{{4}})", said)[1] for rank in (0, 1)]  # in one line without buffers
    assert losses[0] == losses[1]
    assert float(losses[0]) < 0.5


INTERACTIVE = """
import sys
from pathlib import Path
from leyden_testing.reporting import Model, loader, quiet
quiet(Path({folder!r}), strategy={strategy!r})[0].fit(Model(), loader(4))
print("fitted")
"""


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_that_spawn_needs_one(tmp_path):
    (tmp_path / "train.py").write_text(
        "import leyden as pl\n"
        "from leyden.demos import BoringModel\n"
        "trainer = pl.Trainer(accelerator='cpu', devices=2, strategy='ddp_spawn', fast_dev_run=True)\n"
        "trainer.fit(BoringModel())\n"
    )
    result = run("train.py", cwd=tmp_path, code=1)
    assert result.stderr.count("Traceback") == 1
    assert 'put what the script does under `if __name__ == "__main__":`, or take strategy=' in result.stderr


@pytest.mark.slow
def test_what_is_no_script_is_told_to_take_ddp_notebook(tmp_path):
    text = INTERACTIVE.format(folder=str(tmp_path), strategy="ddp")
    result = run("-c", text, cwd=tmp_path, code=1)
    assert result.stderr.count("Traceback") == 1
    assert "This program is no script that can be run again" in result.stderr
    assert "write strategy='ddp_notebook'" in result.stderr


@pytest.mark.slow
def test_ddp_notebook_trains_what_is_typed(tmp_path):
    text = INTERACTIVE.format(folder=str(tmp_path), strategy="ddp_notebook")
    assert "fitted" in run("-i", "-", cwd=tmp_path, input=text + "exit()\n").stdout


@pytest.mark.slow
def test_torchrun(tmp_path, package):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(package), "well", "out"]
    run(*command, cwd=tmp_path)
    reports = [json.loads((tmp_path / "out" / f"report-{rank}.json").read_text()) for rank in (0, 1)]
    assert [report["steps"] for report in reports] == [[4, 8]] * 2
    assert reports[0]["weights"] == reports[1]["weights"]
    assert not any(is_alive(report["pid"]) for report in reports)


class ForkedAgain:
    """In the place of ``subprocess.Popen``: the script is a function, run again without a new interpreter."""

    def __init__(self, directory, script):
        self.directory, self.script, self.commands = directory, script, []

    def __call__(self, command, env):
        self.commands.append(command)
        process = Forked(self.script, self.directory / f"said-{env['LOCAL_RANK']}", outlives=True, **env)
        (self.directory / "started").write_text(str(process.pid))
        return _Popen(process)


class _Popen:
    def __init__(self, process):
        self.process, self.pid, self.returncode = process, process.pid, None

    def poll(self):
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout=None):
        until = time.monotonic() + (PATIENCE if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("script", timeout)
            time.sleep(0.01)
        return self.returncode

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a function as a script of strategy "ddp"; returns the process of rank 0."""
    monkeypatch.setattr(launchers, "_command", lambda: ["the", "script"])

    def as_script(script):
        monkeypatch.setattr(launchers.subprocess, "Popen", ForkedAgain(tmp_path, script))
        return Forked(script, tmp_path / "said-0")

    return as_script


def other(tmp_path):
    """What rank 1 has said."""
    return (tmp_path / "said-1").read_text()


class TestScriptRunAgain:
    def test_it_is_waited_for_however_long_it_takes(self, tmp_path, start):
        def script():
            trainer, _ = quiet(tmp_path, strategy="ddp")
            trainer.fit(Model(), loader(4))
            if trainer.global_rank == 1:
                wait_for(tmp_path / "go on")
                (tmp_path / "late").write_text("done")
            else:
                (tmp_path / "ended").write_text("as far as the script goes")

        process = start(script)
        wait_for(tmp_path / "ended")
        assert is_alive(process.pid)
        (tmp_path / "go on").write_text("now")
        assert process.wait() == 0
        assert (tmp_path / "late").exists()

    def test_rank_0_is_killed(self, tmp_path, start):
        model = Breaking(tmp_path / "run", "training_step", "is killed", rank=0)
        process = start(lambda: quiet(tmp_path, strategy="ddp")[0].fit(model, loader(16), loader(16)))
        assert process.wait() == -signal.SIGKILL
        self.ends(tmp_path)
        assert "Rank 1 ends, as rank 0 failed: The process of rank 0" in other(tmp_path)

    def test_rank_0_is_killed_before_they_have_met(self, tmp_path, start):
        def script():
            if "LEYDEN_PARENT_PROCESS" not in os.environ:
                threading.Thread(target=self.kill_when_started, args=[tmp_path]).start()
            else:
                os.environ["MASTER_PORT"] = str(free_port())
            quiet(tmp_path, strategy="ddp")[0].fit(Model(), loader(16))

        assert start(script).wait() == -signal.SIGKILL
        self.ends(tmp_path)
        assert re.search(r"The process \d+, which started this one for its run, is gone", other(tmp_path))

    @staticmethod
    def kill_when_started(directory):
        wait_for(directory / "started")
        os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def ends(directory):
        """The other process comes to its end."""
        wait_for_end(int((directory / "started").read_text()))

    def test_it_fails_before_they_have_met(self, tmp_path, start):
        def script():
            if os.environ.get("LOCAL_RANK"):
                raise ImportError("a module of rank 1 is missing")
            quiet(tmp_path, strategy="ddp")[0].fit(Model(), loader(16))

        process = start(script)
        assert process.wait() == 1
        assert "ImportError: a module of rank 1 is missing" in other(tmp_path)
        assert "MeetingError: The process of local rank 1 ended with code 1 before the run began;" in process.said

    @pytest.mark.parametrize("where", ["training_step", "on_fit_end", "after the run"])
    def test_it_fails(self, tmp_path, start, where):
        model = Breaking(tmp_path / "run", where)

        def script():
            quiet(tmp_path, strategy="ddp")[0].fit(model, loader(16), loader(16))
            model.come_to("after the run")

        process = start(script)
        assert process.wait() == 1
        assert "Broken: ('it broke', 7)" in other(tmp_path)
        after = where == "after the run"
        assert ("The process of local rank 1 ended with" if after else "PeerFailedError: Rank 1 failed") in process.said

    def test_it_is_ended_if_rank_0_fails_after_the_run(self, tmp_path, start):
        def script():
            trainer, _ = quiet(tmp_path, strategy="ddp")
            trainer.fit(Model(), loader(4))
            if trainer.global_rank == 0:
                raise Broken("in what comes after", 1)
            trainer.validate(Validated(), loader(4), verbose=False)

        process = start(script)
        assert process.wait() == 1
        assert "Broken: ('in what comes after', 1)" in process.said
        assert re.search("[Rr]ank 0 has ended its program", other(tmp_path))

    def test_all_are_interrupted(self, tmp_path, start):
        class Waiting(Breaking):
            def training_step(self, batch, batch_idx):
                (self.directory / f"ready-{self.global_rank}").write_text("yes")
                threading.Event().wait()

        model = Waiting(tmp_path / "run", "nowhere")
        process = start(lambda: quiet(tmp_path, strategy="ddp")[0].fit(model, loader(16), loader(16)))
        for rank in (0, 1):
            wait_for(model.directory / f"ready-{rank}")
        for pid in (process.pid, int((tmp_path / "started").read_text())):
            os.kill(pid, signal.SIGINT)
        assert process.wait() == 1
        self.ends(tmp_path)
        assert (process.said.count("Traceback"), other(tmp_path).count("Traceback")) == (1, 0)

    def test_the_variables_are_those_of_a_launcher(self, tmp_path, start):
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR")

        class Asking(Model):
            def on_train_start(self):
                (tmp_path / f"asked-{self.global_rank}").write_text(" ".join(os.environ[name] for name in names))

        assert start(lambda: quiet(tmp_path, strategy="ddp")[0].fit(Asking(), loader(4))).wait() == 0
        assert [(tmp_path / f"asked-{rank}").read_text() for rank in (0, 1)] == [
            "0 0 2 0 127.0.0.1",
            "1 1 2 0 127.0.0.1",
        ]


class Data(pl.LightningDataModule):
    """Counts how often it was asked for loaders, and says so in its state."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def train_dataloader(self):
        self.asked += 1
        return loader(16, shuffle=True)

    def val_dataloader(self):
        return loader(7)

    def state_dict(self):
        return {"asked": self.asked}

    def load_state_dict(self, state):
        self.asked = state["asked"]


class Late(pl.LightningModule):
    """Built in ``configure_model``."""

    def __init__(self):
        super().__init__()
        self.layer = None

    def configure_model(self):
        if self.layer is None:
            torch.manual_seed(3)
            self.layer = nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.mse_loss(self.layer(batch[0]), batch[1])
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.mse_loss(self.layer(batch[0]), batch[1]), sync_dist=True)

    def predict_step(self, batch, batch_idx):
        return batch[2]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("method", [pytest.param("spawn", marks=pytest.mark.slow), "fork"])
def test_a_run_by_functions_brings_everything_back(tmp_path, method):
    stopping = EarlyStopping("val_loss", patience=5)
    saving = ModelCheckpoint(tmp_path / "saved", monitor="val_loss")
    options = {"max_epochs": 2, "enable_checkpointing": True, "num_sanity_val_steps": 0}
    model, data = Late(), Data()
    trainer, _ = quiet(tmp_path, strategy=f"ddp_{method}", callbacks=[stopping, saving], **options)
    trainer.fit(model, datamodule=data)
    assert (trainer.global_step, trainer.current_epoch) == (8, 2)
    assert {"loss", "loss_epoch", "val_loss"} <= set(trainer.callback_metrics)
    assert data.asked == 1
    assert stopping.best_score == saving.best_model_score < 10
    assert Path(saving.best_model_path).exists()
    assert trainer.state.status == "finished"
    assert "MASTER_PORT" not in os.environ
    single = Late()
    alone(tmp_path / "alone", max_epochs=2).fit(single, loader(16, 4), loader(7))
    assert isinstance(model.layer, nn.Linear)
    assert not torch.equal(model.layer.weight, single.layer.weight)  # shuffled by Data, not here
    if method == "fork":
        assert torch.cat(trainer.predict(model, loader(7))).tolist() == [0, 2, 4, 6]
        assert trainer.validate(model, loader(7), verbose=False)[0]["val_loss"] > 0


def test_forked_runs_see_the_weights_of_those_before(tmp_path):
    together, single = Late(), Late()
    trainer, _ = quiet(tmp_path)
    for _ in range(2):
        trainer, _ = quiet(tmp_path)
        trainer.fit(together, loader(16), loader(4))
        alone(tmp_path / "alone").fit(single, loader(16, 4), loader(4))
    assert same_weights(together, single, 1e-6)


class Plain:
    """Nothing but an attribute."""

    def __init__(self, value):
        self.value = value


class Simple(pl.LightningModule):
    """A model that can be pickled."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Spawned(Simple):
    """Raises in a step; spawned processes import it."""

    def training_step(self, batch, batch_idx):
        raise Broken("spawned, and broken", 4)


@pytest.mark.slow
def test_a_spawned_process_that_fails(tmp_path):
    with pytest.raises(Broken) as raised:
        quiet(tmp_path, strategy="ddp_spawn")[0].fit(Spawned(), loader(4))
    assert raised.value.args == ("spawned, and broken", 4)
    assert isinstance(raised.value.__cause__, ProcessRaisedException)


class Deep(Simple):
    def __init__(self, value):
        super().__init__()
        self.parts = {"first": [Plain(value)]}


class WithLoaders(pl.LightningDataModule):
    def __init__(self, value):
        super().__init__()
        self.transform = value

    def train_dataloader(self):
        return loader(4)


def unpicklable(where, value):
    """A model, what to fit it with, and callbacks, one of which holds a value at a path."""
    if where == "model":
        return Deep(value), {"train_dataloaders": loader(4)}, []
    if where == "loader":
        return Simple(), {"train_dataloaders": DataLoader(Rows(4), 2, collate_fn=value)}, []
    if where == "datamodule":
        return Simple(), {"datamodule": WithLoaders(value)}, []
    callback = pl.Callback()
    callback.action = value
    return Simple(), {"train_dataloaders": loader(4)}, [callback]


PATHS = {
    "model": "model.parts['first'][0].value",
    "loader": "train_dataloaders.collate_fn",
    "datamodule": "datamodule.transform",
    "callback": "callbacks[0].action",
}


UNPICKLABLE = {"lambda": lambda batch: batch, "lock": threading.Lock()}
CASES = [(where, what) for where in PATHS for what in UNPICKLABLE if (where, what) != ("loader", "lock")]


@pytest.mark.parametrize(("where", "what"), CASES)
def test_what_cannot_be_pickled_is_named_before_any_process_starts(tmp_path, monkeypatch, where, what):
    def start(*args, **kwargs):
        raise AssertionError("a process was started")

    monkeypatch.setattr(torch.multiprocessing, "start_processes", start)
    model, data, callbacks = unpicklable(where, UNPICKLABLE[what])
    with pytest.raises(MisconfigurationException) as raised:
        quiet(tmp_path, strategy="ddp_spawn", callbacks=callbacks)[0].fit(model, **data)
    said = str(raised.value)
    assert said.startswith(f"{PATHS[where]} can't be pickled, which 'spawn' needs to bring it to the other processes:")
    assert said.endswith("or take strategy='ddp' or 'ddp_fork'.")
    assert "\n" not in said


class Transforming:
    def __init__(self):
        self.transform = lambda batch: batch

    @pl.hookimpl
    def on_train_start(self, trainer):
        pass


def test_a_plugin_that_cannot_be_pickled_is_named(tmp_path):
    trainer, _ = quiet(tmp_path, strategy="ddp_spawn", plugins=[Transforming()])
    with pytest.raises(MisconfigurationException, match=r"plugins\[0\]\.transform can't be pickled"):
        trainer.fit(Simple(), loader(4))


def test_a_model_whose_class_cannot_be_imported_is_named(tmp_path):
    class Inner(Simple):
        pass

    with pytest.raises(MisconfigurationException, match=r"^model can't be pickled, which 'spawn' needs"):
        quiet(tmp_path, strategy="ddp_spawn")[0].fit(Inner(), loader(4))


BY_TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3", "GROUP_RANK": "0",
    "WORLD_SIZE": "3", "MASTER_ADDR": "a", "MASTER_PORT": "1",
}  # fmt: skip
BY_HAND = {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "WORLD_SIZE": "2"}
NODE = {"NODE_RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
REFUSED = {
    "devices and torchrun": (BY_TORCHRUN, {}, r"devices=2.*3"),
    "devices and variables": ({**BY_HAND, "WORLD_SIZE": "3"}, {}, r"make 2 processes.*is 3"),
    "a local rank that is too high": ({**BY_HAND, "LOCAL_RANK": "2"}, {}, "LOCAL_RANK is 2, but devices=2 has"),
    "a left-over local rank": ({"LOCAL_RANK": "0"}, {}, "LOCAL_RANK='0' in .* unset LOCAL_RANK if it is left over"),
    "a world size that is no number": ({**BY_HAND, "WORLD_SIZE": "all"}, {}, "WORLD_SIZE .* is 'all'"),
    "a node that is no number": ({**BY_HAND, "NODE_RANK": "-1"}, {}, "NODE_RANK .* is '-1'"),
    "nodes without addresses": ({}, {"num_nodes": 2}, "lacks MASTER_PORT and NODE_RANK"),
    "a node too many": (NODE, {"num_nodes": 2}, "NODE_RANK is 2, but num_nodes=2 has"),
    "a port that is no number": ({**BY_HAND, "MASTER_PORT": "http"}, {}, "MASTER_PORT"),
    "a strategy that a machine's only device can't do": ({}, {"strategy": "single_device"}, "single_device"),
    "a device that is not there": ({}, {"accelerator": "cuda"}, "accelerator='cuda' finds no device"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_together_is_refused_in_one_sentence(tmp_path, monkeypatch, case):
    variables, options, said = REFUSED[case]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MisconfigurationException, match=said) as raised:  # noqa: PT012 - some say it in fit only
        trainer, _ = quiet(tmp_path, **{"strategy": DDPStrategy(), **options})
        trainer.fit(Model(), loader(4))
    assert "\n" not in str(raised.value)


def test_a_seed_that_is_none_is_refused_before_any_process_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "abc")
    with pytest.raises(ValueError, match="PL_GLOBAL_SEED='abc' in the environment is no seed"):
        quiet(tmp_path)


def test_two_processes_of_one_node_say_what_is_wrong_once(tmp_path):
    variables = {"WORLD_SIZE": "5", "MASTER_PORT": str(free_port()), "MASTER_ADDR": "127.0.0.1"}

    def script():
        quiet(tmp_path, strategy="ddp")[0].fit(Model(), loader(4))

    processes = [
        Forked(script, tmp_path / f"said-{rank}", LOCAL_RANK=str(rank), RANK=str(rank), **variables) for rank in (0, 1)
    ]
    assert codes(processes) == [1, 1]
    assert "the environment variable WORLD_SIZE is 5" in processes[0].said
    assert processes[1].said == ""


def test_a_port_in_use(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        def script():
            quiet(tmp_path, strategy="ddp")[0].fit(Model(), loader(4))

        process = Forked(
            script, tmp_path / "said", LOCAL_RANK="0", RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )  # fmt: skip
        assert process.wait() == 1
    assert f"Port {port} of 127.0.0.1, where the processes should meet, is in use" in process.said

"""Loggers and callbacks under a hand-written loop, and who prints."""

import csv
import subprocess
import sys

import pytest
import torch

from leyden.fabric import Fabric
from leyden.loggers import CSVLogger

from .fabric_loop import network


def logged(directory):
    with (directory / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


class TestLoggers:
    def test_numbers_reach_all_loggers(self, tmp_path):
        loggers = [CSVLogger(tmp_path, name="a"), CSVLogger(tmp_path, name="b")]
        fabric = Fabric(accelerator="cpu", loggers=loggers)
        assert (fabric.loggers, fabric.logger) == (loggers, loggers[0])
        fabric.log("loss", torch.tensor([0.5], requires_grad=True), step=3)
        fabric.log_dict({"a": 1, "b": 2.5}, step=4)
        for logger in loggers:
            logger.save()
            rows = logged(tmp_path / logger.name / "version_0")
            assert [float(row["step"]) for row in rows] == [3, 4]
            assert (float(rows[0]["loss"]), float(rows[1]["a"]), float(rows[1]["b"])) == (0.5, 1, 2.5)

    def test_they_may_be_names(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        fabric = Fabric(accelerator="cpu", loggers="csv")
        assert isinstance(fabric.logger, CSVLogger)
        assert fabric.logger.save_dir == str(tmp_path)

    def test_a_tensor_of_several_numbers_is_refused(self):
        with pytest.raises(ValueError, match=r"log\('loss'\): a tensor of shape \(2,\)"):
            Fabric(accelerator="cpu").log("loss", torch.ones(2))

    def test_there_may_be_none(self):
        fabric = Fabric(accelerator="cpu")
        fabric.log("loss", 1.0)
        assert fabric.loggers == []
        with pytest.raises(IndexError, match="no logger"):
            fabric.logger

    def test_processes_agree_on_the_directory_and_one_writes(self, tmp_path):
        (tmp_path / "runs" / "version_0").mkdir(parents=True)

        def log(fabric):
            fabric.log("rank", fabric.global_rank, step=0)
            return fabric.strategy.all_gather_object(fabric.logger.log_dir)

        logger = CSVLogger(tmp_path, name="runs")
        directories = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork", loggers=logger).launch(log)
        assert directories == [str(tmp_path / "runs" / "version_1")] * 2
        assert [row["rank"] for row in logged(tmp_path / "runs" / "version_1")] == ["0"]

    def test_what_was_logged_last_is_written_when_the_program_ends(self, tmp_path):
        script = (
            "from leyden.fabric import Fabric; from leyden.loggers import CSVLogger;"
            "fabric = Fabric(accelerator='cpu', loggers=CSVLogger('.', name='runs')); fabric.log('a', 1.0, step=0)"
        )
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=120)
        assert [float(row["a"]) for row in logged(tmp_path / "runs" / "version_0")] == [1.0]


class Counting:
    """A callback that takes part of what it could be given."""

    not_a_method = 3

    def __init__(self):
        self.calls = []

    def on_after_setup(self, fabric, module):
        self.calls.append(("setup", type(module).__name__))

    def on_after_optimizer_step(self, optimizer):
        self.calls.append(("step", type(optimizer).__name__))

    def on_epoch(self, epoch):
        self.calls.append(("epoch", epoch))

    def on_anything(self, *args, **kwargs):
        self.calls.append((args, kwargs))


class TestCallbacks:
    def test_methods_are_called_by_name_with_what_they_take(self):
        one, other = Counting(), Counting()
        fabric = Fabric(accelerator="cpu", callbacks=[one, other])
        fabric.call("on_epoch", epoch=3, loss=0.5)
        fabric.call("on_anything", 1, loss=0.5)
        fabric.call("on_nothing", 1)
        assert one.calls == other.calls == [("epoch", 3), ((1,), {"loss": 0.5})]

    def test_one_alone_needs_no_list(self):
        callback = Counting()
        Fabric(accelerator="cpu", callbacks=callback).call("on_epoch", 1)
        assert callback.calls == [("epoch", 1)]

    def test_set_up_and_steps_are_said(self):
        callback, module = Counting(), network()
        fabric = Fabric(accelerator="cpu", callbacks=[callback])
        model, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.1))
        fabric.backward(model(torch.ones(1, 4)).mean())
        optimizer.step()
        assert callback.calls == [("setup", "FabricModule"), ("step", "SGD")]

    def test_what_can_not_be_called_is_said(self):
        with pytest.warns(UserWarning, match="Counting.not_a_method is no method"):
            Fabric(accelerator="cpu", callbacks=[Counting()]).call("not_a_method")


def test_the_first_process_of_each_node_prints(tmp_path):
    def shout(fabric):
        with (tmp_path / f"{fabric.global_rank}").open("w") as file:
            fabric.print("here", "I am", sep="-", file=file)

    Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(shout)
    assert ((tmp_path / "0").read_text(), (tmp_path / "1").read_text()) == ("here-I am\n", "")


def test_the_name_is_found_at_every_place():
    import leyden

    assert leyden.Fabric is leyden.fabric.Fabric is Fabric
    assert {"Fabric", "is_wrapped", "seed_everything"} <= set(dir(leyden.fabric))


def test_every_public_name_and_argument_of_lightnings_is_there():
    import inspect

    from lightning_fabric import Fabric as Theirs

    missing = []
    for name, theirs in inspect.getmembers(Theirs):
        if name.startswith("_") and name != "__init__":
            continue
        ours = getattr(Fabric, name, None)
        if callable(theirs):
            wanted = inspect.signature(theirs).parameters
            taken = inspect.signature(ours).parameters if ours is not None else {}
            missing += [f"{name}({argument})" for argument in wanted if argument not in taken]
        elif ours is None:
            missing.append(name)
    assert missing == []

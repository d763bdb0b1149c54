"""The TensorBoard logger alone: TensorBoard reads its files, which are compared with those of pytorch-lightning."""

import copy
import math
import os
import pickle
import subprocess
import sys
import warnings
from argparse import Namespace
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from leyden.utilities import rank_zero_only
from leyden_tensorboard.logger import TensorBoardLogger


def scalars(log_dir):
    """Return each tag's (step, value) pairs from the event files of a directory."""
    events = EventAccumulator(str(log_dir), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def event_files(log_dir):
    return sorted(Path(log_dir).glob("events.out.tfevents.*"))


@pytest.fixture
def lightning_logger():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_lightning.loggers import TensorBoardLogger as LightningLogger

        yield LightningLogger


def test_files_lie_where_lightning_puts_them(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"loss": 0.5}, step=3)
    logger.save()
    run = tmp_path / "lightning_logs" / "version_0"
    assert (logger.name, logger.version) == ("lightning_logs", 0)
    assert (logger.save_dir, logger.root_dir, logger.log_dir) == (str(tmp_path), str(run.parent), str(run))
    assert len(event_files(run)) == 1
    assert scalars(run) == {"loss": [(3, 0.5)]}
    assert yaml.safe_load((run / "hparams.yaml").read_text()) == {}


@pytest.mark.parametrize("finish", ["save", "finalize", "after_save_checkpoint", None])
def test_nothing_is_made_before_something_is_logged(tmp_path, finish):
    logger = TensorBoardLogger(tmp_path / "logs")
    assert logger.version == 0
    assert logger.log_dir
    if finish == "save":
        logger.save()
    elif finish is not None:
        getattr(logger, finish)("success")
    assert list(tmp_path.iterdir()) == []


def test_versions_are_counted_on(tmp_path):
    root = tmp_path / "runs"
    for name in ("version_0", "version_11", "version_x", "other"):
        (root / name).mkdir(parents=True)
    (root / "version_40").touch()
    logger = TensorBoardLogger(tmp_path, name="runs")
    assert logger.version == 12
    logger.log_metrics({"a": 1.0})
    assert logger.version == 12
    assert TensorBoardLogger(tmp_path, name="runs").version == 13


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"name": "", "version": 2}, "version_2"),
        ({"name": None, "version": "mine"}, "mine"),
        ({"name": "exp", "version": "mine", "sub_dir": "part"}, "exp/mine/part"),
        ({"sub_dir": Path("part")}, "lightning_logs/version_0/part"),
    ],
)
def test_directories(tmp_path, arguments, path, lightning_logger):
    logger = TensorBoardLogger(tmp_path, **arguments)
    assert logger.log_dir == str(tmp_path / path)
    assert logger.log_dir == lightning_logger(tmp_path, **arguments).log_dir
    logger.log_metrics({"a": 1.0})
    logger.save()
    assert scalars(tmp_path / path) == {"a": [(0, 1.0)]}


def test_home_and_variables_in_save_dir_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOGS", "here")
    assert TensorBoardLogger("~/$LOGS").save_dir == str(tmp_path / "here")


def test_two_loggers_of_a_run_share_a_version_that_both_asked_for(tmp_path):
    first, second = TensorBoardLogger(tmp_path), TensorBoardLogger(tmp_path, sub_dir="second")
    assert (first.version, second.version) == (0, 0)
    for logger in (first, second):
        logger.log_metrics({"a": 1.0})
        logger.save()
    assert [path.name for path in (tmp_path / "lightning_logs").iterdir()] == ["version_0"]


def test_the_experiment_is_the_summary_writer_and_writes_after_what_was_logged(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=0)
    assert type(logger.experiment) is SummaryWriter
    logger.log_metrics({"loss": 2.0}, step=1)
    logger.experiment.add_scalar("loss", 3.0, 2)
    logger.experiment.add_text("note", "hello", 2)
    logger.save()
    assert scalars(logger.log_dir) == {"loss": [(0, 1.0), (1, 2.0), (2, 3.0)]}


def test_arguments_reach_the_summary_writer(tmp_path):
    logger = TensorBoardLogger(tmp_path, filename_suffix=".mine", max_queue=3, flush_secs=7)
    assert (logger.experiment.max_queue, logger.experiment.flush_secs) == (3, 7)
    logger.log_metrics({"a": 1.0})
    logger.save()
    assert event_files(logger.log_dir)[0].name.endswith(".mine")


def test_values_and_steps_are_those_of_lightning(tmp_path, lightning_logger):
    ours = TensorBoardLogger(tmp_path / "ours", prefix="run", default_hp_metric=False)
    theirs = lightning_logger(tmp_path / "theirs", prefix="run", default_hp_metric=False)
    rows = [
        ({"loss": 0.1, "epoch": 0}, 0),
        ({"loss": math.nan, "big": 1e300, "acc/top 1": True}, 7),
        ({"loss": -math.inf, "tensor": torch.tensor(1 / 3), "one": torch.tensor([2.5])}, 7),
        ({"both": {"a": 1.0, "b": 2.0}}, 9),
        ({"loss": 1e-50}, None),
    ]
    for logger in (ours, theirs):
        for metrics, step in rows:
            logger.log_metrics(metrics, step)
        logger.finalize("success")
    assert repr(scalars(ours.log_dir)) == repr(scalars(theirs.log_dir))
    names = {os.path.relpath(path, ours.log_dir) for path in Path(ours.log_dir).iterdir() if path.is_dir()}
    assert names == {os.path.relpath(path, theirs.log_dir) for path in Path(theirs.log_dir).iterdir() if path.is_dir()}
    assert scalars(Path(ours.log_dir) / "run-both_a") == scalars(Path(theirs.log_dir) / "run-both_a")


def test_one_event_holds_the_values_of_a_step(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"a": 1.0, "b": 2.0}, 5)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    assert events.Scalars("a")[0].wall_time == events.Scalars("b")[0].wall_time


@pytest.mark.parametrize("value", ["text", torch.ones(2), None, [1.0]])
def test_a_value_that_is_no_number_is_named(tmp_path, value):
    with pytest.raises(ValueError, match=f"'loss'.*{type(value).__name__}"):
        TensorBoardLogger(tmp_path).log_metrics({"loss": value}, 0)


def test_rows_are_handed_over_in_time(tmp_path, monkeypatch):
    now = 1000.0
    writers = []

    class Recorded(SummaryWriter):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            writers.append(self)

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", Recorded)
    monkeypatch.setattr("time.time", lambda: now)
    logger = TensorBoardLogger(tmp_path, max_queue=3, flush_secs=4)
    steps = {}
    for step in range(8):
        now = 1000.0 + (4.0 if step >= 6 else 0.0)
        logger.log_metrics({"a": 1.0}, step)
        writers[0].flush()  # writes the rows that were given to the writer to the disk
        steps[step] = [s for s, _ in scalars(logger.log_dir)["a"]]
    assert steps[0] == [0], "the first row is given to the writer at once"
    assert steps[2] == [0], "two rows are queued"
    assert steps[3] == [0, 1, 2, 3], "three queued rows are given to the writer"
    assert steps[5] == [0, 1, 2, 3]
    assert steps[6] == [0, 1, 2, 3, 4, 5, 6], "four seconds have passed"
    assert steps[7] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("moment", ["save", "after_save_checkpoint"])
def test_a_checkpoint_brings_what_was_logged_to_the_disk(tmp_path, moment):
    logger = TensorBoardLogger(tmp_path)
    for step in range(4):
        logger.log_metrics({"a": float(step)}, step)
    getattr(logger, moment)(*([None] if moment == "after_save_checkpoint" else []))
    assert scalars(logger.log_dir)["a"] == [(step, float(step)) for step in range(4)]


def test_a_process_that_ends_without_finalize_loses_nothing(tmp_path):
    script = (
        "from leyden_tensorboard.logger import TensorBoardLogger\n"
        f"logger = TensorBoardLogger({str(tmp_path)!r})\n"
        "for step in range(50):\n    logger.log_metrics({'a': step}, step)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    assert len(scalars(tmp_path / "lightning_logs" / "version_0")["a"]) == 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_leaves_the_file_alone(tmp_path):
    script = (
        "import os\n"
        "from leyden_tensorboard.logger import TensorBoardLogger\n"
        f"logger = TensorBoardLogger({str(tmp_path)!r})\n"
        "for step in range(3):\n    logger.log_metrics({'a': step}, step)\n"
        "child = os.fork()\n"
        "if child == 0:\n    del logger\n    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "logger.finalize('success')\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=120)
    assert scalars(tmp_path / "lightning_logs" / "version_0")["a"] == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_it_logs_on_after_finalize(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    writer = logger.experiment
    logger.log_metrics({"fit": 1.0}, 0)
    logger.finalize("success")
    logger.log_metrics({"test": 2.0}, 1)
    logger.finalize("success")
    assert logger.experiment is writer
    assert scalars(logger.log_dir) == {"fit": [(0, 1.0)], "test": [(1, 2.0)]}


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = TensorBoardLogger(tmp_path / "logs")
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_hyperparams({"lr": 1.0})
    logger.experiment.add_scalar("a", 1.0)
    logger.save()
    logger.finalize("success")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda logger: pickle.loads(pickle.dumps(logger))])
def test_a_copy_writes_to_the_same_run(tmp_path, duplicate):
    logger = TensorBoardLogger(tmp_path)
    for step in range(3):
        logger.log_metrics({"a": 1.0}, step)
    copied = duplicate(logger)
    copied.log_metrics({"b": 2.0}, 3)
    copied.finalize("success")
    logger.finalize("success")
    assert copied.log_dir == logger.log_dir
    assert scalars(logger.log_dir) == {"a": [(0, 1.0), (1, 1.0), (2, 1.0)], "b": [(3, 2.0)]}


class Colour(Enum):
    RED = 1


@dataclass
class Config:
    width: int = 3


PLAIN = {"lr": 0.1, "name": "a: b", "none": None, "flag": True, "layers": [1, 2], "nested": {"b": 1, "a": [{"c": 2}]}}


@pytest.mark.parametrize("kind", [dict, lambda params: Namespace(**params)])
def test_hyperparameters_in_the_file_are_those_of_lightning(tmp_path, lightning_logger, kind):
    ours, theirs = TensorBoardLogger(tmp_path / "ours"), lightning_logger(tmp_path / "theirs")
    for logger in (ours, theirs):
        logger.log_hyperparams(kind(PLAIN))
        logger.log_hyperparams(kind({"colour": Colour.RED}))
        logger.save()
        logger.finalize("success")
    files = [Path(logger.log_dir, "hparams.yaml").read_text() for logger in (ours, theirs)]
    # in another order: Lightning does not sort where OmegaConf is installed
    assert [yaml.safe_load(text) for text in files] == [{**PLAIN, "colour": "RED"}] * 2
    assert scalars(ours.log_dir) == scalars(theirs.log_dir) == {"hp_metric": [(0, -1.0), (0, -1.0)]}


def test_hyperparameters_are_kept_as_plain_data(tmp_path):
    import numpy as np

    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    logger.log_hyperparams(
        {
            "tuple": (1, "a"),
            "set": {2, 1},
            "numpy": np.float64(0.5),
            "tensor": torch.tensor(3),
            "path": Path("data"),
            "config": Config(),
            "space": Namespace(a=Colour.RED),
            "dtype": torch.float16,
            "inside": [{"layer": torch.nn.ReLU()}],
        }
    )
    with pytest.warns(UserWarning, match=r"dtype \(dtype\), inside\[0\]\.layer \(ReLU\)\.") as caught:
        logger.save()
    assert len(caught) == 1
    assert yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text()) == {
        "tuple": [1, "a"],
        "set": [1, 2],
        "numpy": 0.5,
        "tensor": 3,
        "path": "data",
        "config": {"width": 3},
        "space": {"a": "RED"},
        "dtype": "torch.float16",
        "inside": [{"layer": "ReLU()"}],
    }


def test_hyperparameters_reach_the_hparams_tab_with_their_metrics(tmp_path):
    from tensorboard.plugins.hparams import plugin_data_pb2

    logger = TensorBoardLogger(tmp_path)
    params = {"lr": 0.5, "size": 3, "act": torch.nn.ReLU, "opt": {"name": "sgd"}, "cfg": [{"a": Config()}], "x": (1,)}
    logger.log_hyperparams(params, {"val_loss": 0.25, "acc": torch.tensor(1.0)}, step=4)
    with pytest.warns(UserWarning, match="act"):
        logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    assert scalars(logger.log_dir) == {"val_loss": [(4, 0.25)], "acc": [(4, 1.0)]}
    contents = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    logged = plugin_data_pb2.HParamsPluginData.FromString(contents).session_start_info.hparams
    assert {name: logged[name].number_value for name in ("lr", "size")} == {"lr": 0.5, "size": 3}
    assert logged["opt/name"].string_value == "sgd"
    assert logged["cfg/0/a/width"].number_value == 3
    assert logged["x"].string_value == "(1,)"
    assert "ReLU" in logged["act"].string_value
    contents = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    infos = plugin_data_pb2.HParamsPluginData.FromString(contents).experiment.metric_infos
    assert {info.name.tag for info in infos} == {"val_loss", "acc"}


def test_a_single_metric_is_hp_metric(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams({"lr": 1.0}, metrics=0.75)
    logger.finalize("success")
    assert scalars(logger.log_dir) == {"hp_metric": [(0, 0.75)]}


def test_without_a_metric_hyperparameters_are_in_the_file_alone(tmp_path):
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    logger.log_hyperparams({"lr": 1.0})
    logger.save()
    assert [path.name for path in Path(logger.log_dir).iterdir()] == ["hparams.yaml"]


def test_hyperparameters_logged_later_are_in_the_file_too(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams({"lr": 1.0})
    logger.save()
    logger.log_hyperparams({"width": 2})
    logger.save()
    assert yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text()) == {"lr": 1.0, "width": 2}


def test_a_run_without_hyperparameters_leaves_the_file_of_the_one_before(tmp_path):
    for params in ({"lr": 1.0}, {}):
        logger = TensorBoardLogger(tmp_path, version=0)
        logger.log_hyperparams(params)
        logger.finalize("success")
    assert yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text()) == {"lr": 1.0}


class Net(torch.nn.Module):
    def __init__(self, example):
        super().__init__()
        self.example_input_array = example
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x, y=0.0):
        return self.layer(x) + y


@pytest.mark.parametrize("example", [torch.zeros(1, 2), (torch.zeros(1, 2), torch.ones(1))])
def test_the_graph_is_logged_when_asked_for(tmp_path, example):
    net = Net(example)
    logger = TensorBoardLogger(tmp_path, log_graph=True)
    logger.log_graph(net)
    logger.finalize("success")
    graph = EventAccumulator(logger.log_dir).Reload().Graph()
    assert any("layer" in node.name for node in graph.node)
    assert net.training


def test_the_graph_takes_a_given_input(tmp_path):
    logger = TensorBoardLogger(tmp_path, log_graph=True)
    logger.log_graph(Net(None), torch.zeros(1, 2))
    logger.finalize("success")
    assert EventAccumulator(logger.log_dir).Reload().Tags()["graph"]


@pytest.mark.parametrize(("example", "reason"), [(None, "not set"), ({"x": torch.zeros(1, 2)}, "of type dict")])
def test_a_graph_that_cannot_be_traced_is_said(tmp_path, example, reason):
    with pytest.warns(UserWarning, match=reason):
        TensorBoardLogger(tmp_path / "logs", log_graph=True).log_graph(Net(example))
    assert list(tmp_path.iterdir()) == []


def test_no_graph_without_asking(tmp_path):
    TensorBoardLogger(tmp_path / "logs").log_graph(Net(torch.zeros(1, 2)))
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_is_not_imported_before_something_is_logged():
    script = (
        "import sys\nimport leyden_tensorboard.plugin\n"
        "from leyden_tensorboard.logger import TensorBoardLogger\n"
        "TensorBoardLogger('logs').log_dir\n"
        "assert not {'tensorboard', 'yaml', 'fsspec', 'torch.utils.tensorboard'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_hyperparameters_that_multiply_by_being_shared_are_not_written_out():
    from leyden_tensorboard.hyperparameters import as_plain_scalars

    value, table = ["x"] * 9, {"x": 1}
    for _ in range(12):
        value, table = [value] * 9, dict.fromkeys("abcdefghi", table)
    scalars = as_plain_scalars({"lr": 0.1, "value": value, "table": table})
    assert scalars == {"lr": 0.1, "value": "(too many values)", "table": "(too many values)"}

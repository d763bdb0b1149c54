"""The CSV logger alone: its files are read back and compared with those of pytorch-lightning's logger."""

import copy
import csv
import os
import pickle
import random
import string
import warnings
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.utilities import MisconfigurationException, rank_zero_only
from leyden_csv.logger import CSVLogger


def rows(logger):
    """Return the rows of a logger's file, without empty cells."""
    with open(os.path.join(logger.log_dir, "metrics.csv"), newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if v != ""} for row in csv.DictReader(file)]


@pytest.fixture
def lightning_logger():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_lightning.loggers import CSVLogger as LightningLogger

        yield LightningLogger


def test_files_lie_where_lightning_puts_them(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"loss": 0.5}, step=3)
    logger.log_hyperparams({"lr": 0.1})
    logger.save()
    run = tmp_path / "lightning_logs" / "version_0"
    assert (logger.name, logger.version) == ("lightning_logs", 0)
    assert (logger.save_dir, logger.root_dir, logger.log_dir) == (str(tmp_path), str(run.parent), str(run))
    assert {path.name for path in run.iterdir()} == {"metrics.csv", "hparams.yaml"}
    assert rows(logger) == [{"loss": "0.5", "step": "3"}]


@pytest.mark.parametrize("finish", ["save", "finalize", "after_save_checkpoint", "experiment"])
def test_nothing_is_made_before_something_is_logged(tmp_path, finish):
    logger = CSVLogger(tmp_path / "logs")
    assert logger.version == 0
    if finish == "experiment":
        logger.experiment.save()
    else:
        getattr(logger, finish)(*([] if finish == "save" else ["success"]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"name": "", "version": 2}, "version_2"),
        ({"name": None, "version": "mine"}, "mine"),
        ({"name": "exp"}, "exp/version_8"),
    ],
)
def test_directories(tmp_path, arguments, path, lightning_logger):
    (tmp_path / "exp" / "version_7").mkdir(parents=True)
    logger = CSVLogger(tmp_path, **arguments)
    assert logger.log_dir == str(tmp_path / path)
    assert logger.log_dir == lightning_logger(tmp_path, **arguments).log_dir


METRICS = [
    ({"loss": 0.1, "epoch": 0}, 0),
    ({"loss": 1 / 3, "epoch": 0}, 1),
    ({"val_loss": float("nan"), "epoch": 0}, 1),
    ({"loss": torch.tensor(0.25), "acc,1": float("-inf"), "epoch": 1}, 2),
    ({"val_loss": 1e-300, "epoch": 1}, 3),
]


@pytest.mark.parametrize("every", [1, 2, 3, 100])
def test_the_file_is_that_of_lightning(tmp_path, lightning_logger, every):
    loggers = [
        kind(tmp_path / name, prefix="run", flush_logs_every_n_steps=every)
        for name, kind in (("ours", CSVLogger), ("theirs", lightning_logger))
    ]
    for logger in loggers:
        for metrics, step in METRICS:
            logger.log_metrics(metrics, step)
        logger.finalize("success")
    ours, theirs = (Path(logger.log_dir, "metrics.csv").read_bytes() for logger in loggers)
    assert ours == theirs


@pytest.mark.parametrize("kind", [dict, lambda params: Namespace(**params)])
def test_hyperparameters_are_those_of_lightning(tmp_path, lightning_logger, kind):
    params = {"lr": 0.1, "name": "a: b", "none": None, "layers": [1, 2], "nested": {"b": 1, "a": [{"c": 2}]}}
    ours, theirs = CSVLogger(tmp_path / "ours"), lightning_logger(tmp_path / "theirs")
    for logger in (ours, theirs):
        logger.log_hyperparams(kind(params))
        logger.log_hyperparams(kind({"width": 3}))
        logger.save()
    files = [Path(logger.log_dir, "hparams.yaml").read_text() for logger in (ours, theirs)]
    # in another order: Lightning does not sort where OmegaConf is installed
    assert [yaml.safe_load(text) for text in files] == [{**params, "width": 3}] * 2


def test_hyperparameters_that_are_no_plain_data_are_kept_as_text(tmp_path):
    logger = CSVLogger(tmp_path)
    with pytest.warns(UserWarning, match=r"act \(type\), loss \(MSELoss\)"):
        logger.log_hyperparams({"act": torch.nn.ReLU, "loss": torch.nn.MSELoss(), "size": (2, 3)})
    saved = yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text())
    assert saved == {"act": str(torch.nn.ReLU), "loss": "MSELoss()", "size": [2, 3]}


def test_a_row_without_a_step_has_the_number_of_rows_before_it(tmp_path):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=2)
    for value in range(5):
        logger.log_metrics({"a": value})
    logger.save()
    assert [row["step"] for row in rows(logger)] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("every", "steps", "written"),
    [
        (1, [0, 0, 5], 3),
        (100, [0, 50, 98], 0),
        (100, [0, 99, 150], 2),
        (100, [30, 80, 130, 180], 3),  # step 99 is passed, though it has no row
        (100, [0, 99, 199, 298], 3),
        (3, [0, 7, 7, 7], 2),
        (3, [0, 7, 7, 7, 7], 5),  # three rows are pending, though the step stays the same
    ],
)
def test_rows_are_written_every_n_steps(tmp_path, every, steps, written):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=every)
    for step in steps:
        logger.log_metrics({"a": 1.0}, step)
    file = Path(logger.log_dir, "metrics.csv")
    assert (len(rows(logger)) if file.exists() else 0) == written


@pytest.mark.parametrize("moment", ["save", "finalize", "after_save_checkpoint"])
def test_what_is_pending_is_written(tmp_path, moment):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"a": 1.0}, 0)
    getattr(logger, moment)(*([] if moment == "save" else ["success"]))
    assert rows(logger) == [{"a": "1.0", "step": "0"}]


@pytest.mark.parametrize("every", [0, -1])
def test_a_flush_interval_below_one_is_refused(tmp_path, every):
    with pytest.raises(MisconfigurationException, match=f"flush_logs_every_n_steps={every}"):
        CSVLogger(tmp_path, flush_logs_every_n_steps=every)


def test_rows_are_appended_and_not_written_again(tmp_path):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    logger.log_metrics({"a": 1.0}, 0)
    file = Path(logger.log_dir, "metrics.csv")
    written = file.stat().st_ino
    for step in range(1, 20):
        logger.log_metrics({"a": 1.0}, step)
    assert file.stat().st_ino == written
    assert len(rows(logger)) == 20


def test_a_new_column_never_leaves_less_than_was_written(tmp_path, monkeypatch):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"b": 1.0}, 0)
    logger.save()

    def power_cut(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", power_cut)
        logger.log_metrics({"a": 2.0}, 1)
        with pytest.raises(KeyboardInterrupt):
            logger.save()
    assert rows(logger) == [{"b": "1.0", "step": "0"}]
    logger.save()
    assert rows(logger) == [{"b": "1.0", "step": "0"}, {"a": "2.0", "step": "1"}]
    assert [path.name for path in Path(logger.log_dir).iterdir()] == ["metrics.csv"]


def test_a_file_that_was_moved_away_is_begun_again(tmp_path):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    logger.log_metrics({"a": 1.0}, 0)
    os.rename(os.path.join(logger.log_dir, "metrics.csv"), tmp_path / "kept.csv")
    logger.log_metrics({"a": 2.0}, 1)
    assert rows(logger) == [{"a": "2.0", "step": "1"}]


def test_the_metrics_of_an_earlier_run_are_replaced_and_that_is_said(tmp_path):
    old = CSVLogger(tmp_path, version=0)
    old.log_metrics({"b": 1.0}, 0)
    old.save()
    new = CSVLogger(tmp_path, version=0)
    with pytest.warns(UserWarning, match="earlier run"):
        new.log_metrics({"a": 2.0}, 1)
    assert rows(old) == [{"b": "1.0", "step": "0"}], "it is there until something replaces it"
    new.save()
    assert rows(new) == [{"a": "2.0", "step": "1"}]


def test_files_of_other_loggers_in_the_directory_are_no_earlier_run(tmp_path):
    first, second = CSVLogger(tmp_path), CSVLogger(tmp_path)
    assert (first.version, second.version) == (0, 0)
    first.log_hyperparams({"lr": 0.1})
    second.log_metrics({"a": 1.0}, 0)
    second.save()
    assert {path.name for path in Path(first.log_dir).iterdir()} == {"hparams.yaml", "metrics.csv"}


def test_it_logs_on_after_finalize(tmp_path):
    logger = CSVLogger(tmp_path)
    for name in ("fit", "test"):
        logger.log_metrics({name: 1.0}, 0)
        logger.finalize("success")
    assert rows(logger) == [{"fit": "1.0", "step": "0"}, {"test": "1.0", "step": "0"}]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda logger: pickle.loads(pickle.dumps(logger))])
def test_a_copy_goes_on_where_the_logger_was(tmp_path, duplicate):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"a": 1.0}, 0)
    copied = duplicate(logger)
    copied.log_metrics({"a": 2.0}, 1)
    copied.finalize("success")
    assert copied.log_dir == logger.log_dir
    assert [row["step"] for row in rows(copied)] == ["0", "1"]


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = CSVLogger(tmp_path / "logs")
    logger.log_metrics({"a": 1.0})
    logger.log_hyperparams({"lr": 1.0})
    logger.experiment.save()
    logger.finalize("success")
    assert list(tmp_path.iterdir()) == []


def test_a_url_is_a_directory_too(request):
    import fsspec

    memory = fsspec.filesystem("memory")
    root = f"memory://{''.join(random.choices(string.ascii_lowercase, k=12))}"
    request.addfinalizer(lambda: memory.rm(root, recursive=True))
    for version in range(2):
        logger = CSVLogger(root, flush_logs_every_n_steps=1)
        assert logger.version == version
        logger.log_hyperparams({"lr": 0.1})
        for step, name in enumerate("aab"):
            logger.log_metrics({name: 1.0}, step)
        logger.finalize("success")
    with memory.open(f"{root}/lightning_logs/version_1/metrics.csv", "r", newline="") as file:
        assert file.read().splitlines() == ["a,b,step", "1.0,,0", "1.0,,1", ",1.0,2"]
    with memory.open(f"{root}/lightning_logs/version_1/hparams.yaml", "r") as file:
        assert yaml.safe_load(file) == {"lr": 0.1}


def test_a_local_directory_may_be_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for version in range(2):
        logger = CSVLogger(f"file://{tmp_path}/logs", flush_logs_every_n_steps=1)
        assert logger.version == version
        logger.log_hyperparams({"lr": 0.1})
        for step, name in enumerate("aab"):
            logger.log_metrics({name: 1.0}, step)
        logger.finalize("success")
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    for version in range(2):
        run = tmp_path / "logs" / "lightning_logs" / f"version_{version}"
        assert {path.name for path in run.iterdir()} == {"metrics.csv", "hparams.yaml"}
        assert (run / "metrics.csv").read_text().splitlines() == ["a,b,step", "1.0,,0", "1.0,,1", ",1.0,2"]


NAMES = st.text(string.ascii_letters + ' ,"/é\n', min_size=1, max_size=4).filter(lambda name: name != "step")


@settings(max_examples=60, deadline=None)
@given(
    logged=st.lists(st.dictionaries(NAMES, st.floats(allow_nan=False), max_size=4), max_size=12),
    every=st.integers(1, 4),
)
def test_whatever_is_logged_is_read_back(tmp_path_factory, logged, every):
    logger = CSVLogger(tmp_path_factory.mktemp("logs"), flush_logs_every_n_steps=every)
    for step, metrics in enumerate(logged):
        logger.log_metrics(metrics, step)
    logger.finalize("success")
    expected = [{**{k: repr(v) for k, v in metrics.items()}, "step": str(i)} for i, metrics in enumerate(logged)]
    assert (rows(logger) if logged else []) == expected

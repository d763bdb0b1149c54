"""The SQLite logger; its rows are read back with Python's sqlite3."""

import math
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
import torch

import leyden as pl
from leyden.utilities import MisconfigurationException
from leyden_sqlite.logger import SQLiteLogger


def ask(file, query, *values):
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return connection.execute(query, values).fetchall()


def series(file, name, version="0"):
    query = (
        "SELECT step, value FROM metric JOIN run ON run.id = run WHERE metric.name = ? AND version = ? ORDER BY step"
    )
    return ask(file, query, name, version)


def losses(directory, count=6, version=0, **arguments):
    """Fit a model whose loss is 1, 2, 3, …; return the values logged at each step."""

    class Counting(pl.LightningModule):
        def __init__(self, lr=0.5, layers=(2, 3)):
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch, batch_idx):
            self.log("count", float(self.trainer.global_step + 1))
            return self.layer(batch).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=count, logger=SQLiteLogger(directory, version=version),
        log_every_n_steps=1, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        default_root_dir=directory, callbacks=arguments.get("callbacks"),
    )  # fmt: skip
    trainer.fit(Counting(), torch.utils.data.DataLoader(torch.ones(99, 1)), ckpt_path=arguments.get("ckpt_path"))
    return trainer


def test_a_run_leaves_its_metrics_hyperparameters_and_status(tmp_path):
    trainer = losses(tmp_path, 3)
    file = trainer.logger.file
    assert series(file, "count") == [(0, 1.0), (1, 2.0), (2, 3.0)]
    assert ask(file, "SELECT name, version, status FROM run") == [("lightning_logs", "0", "success")]
    assert dict(ask(file, "SELECT name, value FROM hyperparameter")) == {"lr": 0.5, "layers": "(2, 3)"}


def test_another_process_reads_while_the_run_goes_on(tmp_path):
    read = []

    class Reader(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 3:
                script = f"import sqlite3; print(*sqlite3.connect({str(trainer.logger.file)!r}).execute({query!r}))"
                read.append(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True))

    query = "SELECT MAX(step), MAX(value), status FROM metric JOIN run ON run.id = run WHERE metric.name = 'count'"
    losses(tmp_path, 4, callbacks=[Reader()])
    assert read[0].stdout.strip() == "(1, 2.0, 'running')"  # the third batch is logged only after this hook


def test_a_resumed_run_replaces_what_it_repeats(tmp_path):
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "amid.ckpt")

    file = losses(tmp_path, 5, version=7, callbacks=[Save()]).logger.file
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE metric SET value = -1 WHERE name = 'count' AND step >= 2")
    losses(tmp_path, 6, version=7, ckpt_path=tmp_path / "amid.ckpt")
    assert series(file, "count", "7") == [(step, step + 1.0) for step in range(6)]
    assert ask(file, "SELECT COUNT(*) FROM run") == [(1,)]


def test_runs_choose_free_numbers_of_their_experiment(tmp_path):
    found = []
    for name in ("a", "a", "b"):
        logger = SQLiteLogger(tmp_path, name)
        logger.log_metrics({"loss": 1.0})
        logger.finalize("success")
        found.append(logger.version)
    (tmp_path / "a" / "version_5").mkdir(parents=True)
    assert [*found, SQLiteLogger(tmp_path, "a").version] == [0, 1, 0, 6]


def test_two_that_chose_the_same_number_do_not_mix(tmp_path):
    first, second = SQLiteLogger(tmp_path), SQLiteLogger(tmp_path)
    assert first.version == second.version == 0
    first.log_metrics({"loss": 1.0})
    with pytest.raises(MisconfigurationException, match=r"^Another run has taken version 0 of 'lightning_logs'"):
        second.log_metrics({"loss": 2.0})
    assert series(first.file, "loss") == [(0, 1.0)]


def test_numbers_that_are_none(tmp_path):
    logger = SQLiteLogger(tmp_path)
    logger.log_metrics({"a": math.nan, "b": math.inf, "c": torch.tensor(2)})
    logger.log_metrics({"c": 3})
    assert series(logger.file, "a") == [(0, None)]
    assert series(logger.file, "b") == [(0, math.inf)]
    assert series(logger.file, "c") == [(0, 2.0), (1, 3.0)]


def test_metrics_of_a_step_are_kept_all_or_none(tmp_path):
    logger = SQLiteLogger(tmp_path)
    with pytest.raises(ValueError, match="could not convert"):
        logger.log_metrics({"good": 1.0, "bad": "word"})
    logger.log_metrics({"good": 2.0})
    assert series(logger.file, "good") == [(0, 2.0)]


def test_hyperparameters_of_every_type(tmp_path):
    logger = SQLiteLogger(tmp_path)
    logger.log_hyperparams({"n": {"big": 2**80, "flag": True}, "none": None, "path": tmp_path, "text": "x", "f": 0.5})
    assert dict(ask(logger.file, "SELECT name, value FROM hyperparameter")) == {
        "n/big": str(2**80), "n/flag": 1, "none": None, "path": str(tmp_path), "text": "x", "f": 0.5,
    }  # fmt: skip


def test_what_is_no_place_for_a_database_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match="is a URL"):
        SQLiteLogger("s3://bucket/logs")
    (tmp_path / "metrics.sqlite").write_text("something else, long enough to be looked at" * 9)
    with pytest.raises(MisconfigurationException, match=r"can't be written: file is not a database; give another"):
        SQLiteLogger(tmp_path, version=0).log_metrics({"loss": 1.0})

"""The CSV logger in a Trainer, also compared with pytorch-lightning's logger in its Trainer."""

import csv
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import leyden as pl
from leyden.loggers import CSVLogger
from leyden_testing.training import loader, quiet_trainer

LOGGED = {"num_sanity_val_steps": 0, "log_every_n_steps": 1}


def make_model(framework):
    """Make the same model in either framework."""

    class Model(framework.LightningModule):
        def __init__(self, lr=0.1):
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch, batch_idx):
            loss = self.layer(batch[0]).pow(2).mean()
            self.log("loss", loss, on_step=True, on_epoch=True)
            return loss

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.layer(batch[0]).abs().mean())

        def test_step(self, batch, batch_idx):
            self.log("test_loss", self.layer(batch[0]).abs().mean())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

    torch.manual_seed(0)
    return Model()


def steps(log_dir, name):
    with open(Path(log_dir, "metrics.csv"), newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row[name]]


def test_a_run_writes_the_files_that_lightning_writes(tmp_path):
    arguments = {**LOGGED, "max_epochs": 2, "log_every_n_steps": 3}
    directories = {}

    def run(framework, name, logger):
        trainer = quiet_trainer(tmp_path / name, framework.Trainer, logger=logger(tmp_path / name), **arguments)
        model = make_model(framework)
        trainer.fit(model, loader(16), loader(16))
        trainer.test(model, loader(16), verbose=False)
        directories[name] = Path(trainer.log_dir)

    run(pl, "ours", CSVLogger)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorch_lightning
        from pytorch_lightning.loggers import CSVLogger as LightningLogger

        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        run(pytorch_lightning, "theirs", LightningLogger)
    ours, theirs = directories["ours"], directories["theirs"]
    assert {path.name for path in ours.iterdir()} == {"metrics.csv", "hparams.yaml"}
    for file in ours.iterdir():
        assert file.read_bytes() == (theirs / file.name).read_bytes()


def test_it_has_a_name(tmp_path):
    trainer = quiet_trainer(tmp_path, logger="csv", **LOGGED)
    assert type(trainer.logger) is CSVLogger
    assert list(tmp_path.iterdir()) == []
    trainer.fit(make_model(pl), loader(16), loader(16))
    assert steps(tmp_path / "lightning_logs" / "version_0", "val_loss") == [7]


def test_what_was_logged_before_an_error_is_kept(tmp_path):
    class Breaks(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 5:
                raise RuntimeError("the sixth batch")

    trainer = quiet_trainer(tmp_path, logger="csv", callbacks=[Breaks()], **LOGGED)
    with pytest.raises(RuntimeError, match="the sixth batch"):
        trainer.fit(make_model(pl), loader(16), loader(16))
    assert steps(trainer.log_dir, "loss_step") == [0, 1, 2, 3, 4]


def test_a_trial_run_leaves_no_files(tmp_path):
    trainer = quiet_trainer(tmp_path, fast_dev_run=True, logger="csv", **LOGGED)
    trainer.fit(make_model(pl), loader(16), loader(16))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("disabled", "expected"), [("tensorboard", "CSVLogger"), ("", "TensorBoardLogger")])
def test_it_is_the_default_where_no_other_logger_is(tmp_path, disabled, expected):
    pytest.importorskip("leyden_tensorboard")
    script = f"import leyden; print(type(leyden.Trainer(default_root_dir={str(tmp_path)!r}).logger).__name__)"
    environment = {**os.environ, "LEYDEN_PLUGINS_DISABLED": disabled}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True, timeout=120
    )
    assert ran.stdout.split()[-1:] == [expected]

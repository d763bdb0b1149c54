"""The TensorBoard logger in a Trainer, also compared with pytorch-lightning's logger in its Trainer."""

import logging
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import leyden as pl
from leyden.loggers import TensorBoardLogger
from leyden_testing.training import loader, quiet_trainer

LOGGED = {"num_sanity_val_steps": 0, "log_every_n_steps": 1}


def make_model(framework, **arguments):
    """Make the same model in either framework."""

    class Model(framework.LightningModule):
        def __init__(self, lr=0.1, sizes=None, log_graph=False):
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(4, 1)
            self.example_input_array = torch.zeros(2, 4)

        def forward(self, x):
            return self.layer(x)

        def training_step(self, batch, batch_idx):
            loss = self(batch[0]).pow(2).mean()
            self.log("loss", loss, on_step=True, on_epoch=True)
            return loss

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self(batch[0]).abs().mean())

        def test_step(self, batch, batch_idx):
            self.log("test_loss", self(batch[0]).abs().mean())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

    torch.manual_seed(0)
    return Model(**arguments)


def scalars(log_dir):
    events = EventAccumulator(str(log_dir), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("logger", [None, True, "tensorboard", "TensorBoardLogger"])
def test_it_is_the_default_and_has_a_name(tmp_path, logger):
    trainer = quiet_trainer(tmp_path, logger=logger, **LOGGED)
    assert type(trainer.logger) is TensorBoardLogger
    assert list(tmp_path.iterdir()) == []
    trainer.fit(make_model(pl), loader(16), loader(16))
    assert trainer.log_dir == str(tmp_path / "lightning_logs" / "version_0")
    assert "val_loss" in scalars(trainer.log_dir)


def test_a_run_logs_what_lightning_logs(tmp_path):
    arguments = {**LOGGED, "max_epochs": 2, "log_every_n_steps": 3}
    directories = {}

    def run(framework, name):
        trainer = quiet_trainer(tmp_path / name, framework.Trainer, logger=None, **arguments)
        model = make_model(framework, sizes=[1, 2])
        trainer.fit(model, loader(16), loader(16))
        trainer.test(model, loader(16), verbose=False)
        directories[name] = Path(trainer.log_dir)

    run(pl, "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorch_lightning

        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        run(pytorch_lightning, "theirs")
    ours, theirs = directories["ours"], directories["theirs"]
    assert ours.relative_to(tmp_path / "ours") == theirs.relative_to(tmp_path / "theirs")
    assert scalars(ours) == scalars(theirs)
    assert {"loss_step", "loss_epoch", "val_loss", "test_loss", "epoch", "hp_metric"} == set(scalars(ours))
    for directory in (ours, theirs):
        hparams = yaml.safe_load((directory / "hparams.yaml").read_text())
        assert hparams == {"lr": 0.1, "sizes": [1, 2], "log_graph": False}


def test_the_graph_of_a_module_is_logged(tmp_path):
    logger = TensorBoardLogger(tmp_path, log_graph=True)
    trainer = quiet_trainer(tmp_path, logger=logger, **LOGGED)
    trainer.fit(make_model(pl), loader(16), loader(16))
    graph = EventAccumulator(trainer.log_dir).Reload().Graph()
    assert any("layer" in node.name for node in graph.node)


def test_what_was_logged_before_an_error_is_kept(tmp_path):
    class Breaks(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 5:
                raise RuntimeError("the sixth batch")

    trainer = quiet_trainer(tmp_path, logger=None, callbacks=[Breaks()], **LOGGED)
    with pytest.raises(RuntimeError, match="the sixth batch"):
        trainer.fit(make_model(pl), loader(16), loader(16))
    assert [step for step, _ in scalars(trainer.log_dir)["loss_step"]] == [0, 1, 2, 3, 4]


def test_a_trial_run_leaves_no_files(tmp_path):
    trainer = quiet_trainer(tmp_path, logger=None, fast_dev_run=True, **LOGGED)
    trainer.fit(make_model(pl), loader(16), loader(16))
    assert list(tmp_path.iterdir()) == []


def test_images_go_through_the_experiment(tmp_path):
    class Draws(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            trainer.logger.experiment.add_image("weights", torch.zeros(3, 4, 4), trainer.global_step)

    trainer = quiet_trainer(tmp_path, logger=None, callbacks=[Draws()], **LOGGED)
    trainer.fit(make_model(pl), loader(16), loader(16))
    assert [event.step for event in EventAccumulator(trainer.log_dir).Reload().Images("weights")] == [8]


class SaveOnce(pl.Callback):
    """Saves a checkpoint after a number of steps.

    Args:
        path: Its path.
        step: The number.
    """

    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_what_a_killed_run_logged_after_its_checkpoint_is_hidden_in_the_resumed_one(tmp_path):
    """pytorch-lightning shows the curves of both, one over the other."""

    def fit(lr, **options):
        logger = TensorBoardLogger(tmp_path, version=0)
        saver = SaveOnce(tmp_path / "3.ckpt", 3)
        trainer = quiet_trainer(tmp_path, logger=logger, max_epochs=2, callbacks=[saver], **LOGGED)
        trainer.fit(make_model(pl, lr=lr), loader(8), loader(2), **options)
        return scalars(logger.log_dir)

    killed = fit(0.1)
    resumed = fit(0.2, ckpt_path=tmp_path / "3.ckpt")
    assert [step for step, _ in resumed["loss_step"]] == list(range(8))
    assert [step for step, _ in resumed["val_loss"]] == [3, 7]
    assert resumed["loss_step"][:2] == killed["loss_step"][:2]

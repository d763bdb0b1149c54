"""Checkpoints: which are written, what they hold, resuming, hyperparameters, loading."""

from datetime import timedelta

import pytest
import torch
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import StepLR

from leyden_testing.models import rows

from .parity_harness import parity

LIGHTNING_KEYS = [
    "epoch",
    "global_step",
    "state_dict",
    "optimizer_states",
    "lr_schedulers",
    "callbacks",
    "loops",
    "hyper_parameters",
    "hparams_name",
    "datamodule_hyper_parameters",
    "datamodule_hparams_name",
]


def read(path):
    return torch.load(path, weights_only=False)


def make_trained_model(lab):
    """Adam and a schedule, so that a checkpoint has something to restore.

    Nothing random: Leyden's checkpoints hold the random state too, and Lightning's do not.
    """

    class Model(lab.Model):
        def __init__(self, *args):
            super().__init__()
            self.dropout = nn.Identity()

        def configure_optimizers(self):
            optimizer = Adam(self.parameters(), lr=0.1)
            return [optimizer], [StepLR(optimizer, 2)]

    return Model


CHECKPOINTS = {
    "defaults": {},
    "monitor": {"monitor": "val_loss"},
    "top 2": {"monitor": "val_loss", "save_top_k": 2},
    "top 2, mode max": {"monitor": "val_loss", "save_top_k": 2, "mode": "max"},
    "all": {"save_top_k": -1},
    "none": {"save_top_k": 0},
    "only last": {"save_top_k": 0, "save_last": True},
    "last": {"save_last": True, "monitor": "val_loss"},
    "last as a link": {"save_last": "link", "monitor": "val_loss"},
    "every 2 steps": {"every_n_train_steps": 2, "save_top_k": -1},
    "every 2 epochs": {"every_n_epochs": 2, "save_top_k": -1},
    "at the end of training epochs": {"monitor": "val_loss", "save_on_train_epoch_end": True},
    "at the end of validation": {"monitor": "val_loss", "save_on_train_epoch_end": False},
    "named": {"filename": "{epoch:02d}-{val_loss:.3f}-{step}", "monitor": "val_loss"},
    "named without inserting": {"filename": "e{epoch}_v{val_loss:.2f}", "auto_insert_metric_name": False},
    "named after a metric with a slash": {"filename": "{val/loss:.2f}", "monitor": "val_loss"},
    "fixed name": {"filename": "fixed", "save_top_k": -1, "monitor": "val_loss"},
    "fixed name without versions": {"filename": "fixed", "enable_version_counter": False, "monitor": "val_loss"},
    "weights only": {"save_weights_only": True},
    "never": {"every_n_epochs": 0},
    "by time, after every step": {"train_time_interval": timedelta(0), "save_top_k": -1},
}
# The lines of a record that differ on purpose, and why.
DIFFERENT = {
    "only last": (
        "state_dict|save_checkpoint|^file|^last",
        "Leyden writes it at each save, and Lightning when the fit ends, so that a killed run has none",
    ),
    "named after a metric with a slash": (
        r"\.ckpt",
        "the name of a metric makes no directory; Lightning's stays behind when its file is removed",
    ),
}


@parity
@pytest.mark.parametrize("case", CHECKPOINTS)
def test_model_checkpoint(pl, lab, case):
    reason = "Leyden saves after the module's hook too: a resumed run does not call that hook again"
    lab.differs(r"^LightningModule.on_(train_batch|validation)_end", reason)
    for name, (lines, why) in DIFFERENT.items():
        if case == name:
            lab.differs(lines, why)

    class Model(lab.Model):
        def validation_step(self, batch, batch_idx):
            value = [3.0, 1.0, 2.0, 1.5][self.current_epoch]
            self.log("val_loss", value)
            self.log("val/loss", value)

    checkpoint = pl.callbacks.ModelCheckpoint(**CHECKPOINTS[case])
    trainer = lab.trainer(max_epochs=4, callbacks=[checkpoint], enable_checkpointing=True)
    trainer.fit(lab.model(Model), rows(3), rows(1))

    def relative(path):
        return str(path).replace(f"{lab.tmp_path}/", "")

    lab.note("best", [relative(checkpoint.best_model_path), checkpoint.best_model_score])
    lab.note("last", [relative(checkpoint.last_model_path), checkpoint.current_score])
    lab.note("kth", [relative(checkpoint.kth_best_model_path), checkpoint.kth_value])
    lab.note("best k", sorted((relative(path), score) for path, score in checkpoint.best_k_models.items()))
    lab.note("directory", relative(checkpoint.dirpath))
    lab.note("key", relative(checkpoint.state_key))
    lab.note("links", [path.name for path in lab.tmp_path.rglob("*.ckpt") if path.is_symlink()])
    for path in lab.tmp_path.rglob("*.ckpt"):
        saved = read(path)
        lab.note(path.name, [saved["epoch"], saved["global_step"], saved["state_dict"]])
        lab.note("keys", [key for key in LIGHTNING_KEYS if key in saved])


@parity
@pytest.mark.parametrize(
    "options",
    [
        {"monitor": None, "save_top_k": 2},
        {"save_top_k": -2},
        {"mode": "best"},
        {"every_n_train_steps": 1, "every_n_epochs": 1},
        {"every_n_train_steps": -1},
    ],
    ids=str,
)
def test_model_checkpoint_refuses_nonsense(pl, lab, options):
    with lab.raises("MisconfigurationException"):
        pl.callbacks.ModelCheckpoint(**options)


@parity
def test_monitor_that_was_never_logged(pl, lab):
    checkpoint = pl.callbacks.ModelCheckpoint(monitor="none")
    with lab.raises("MisconfigurationException"):
        lab.trainer(callbacks=[checkpoint], enable_checkpointing=True).fit(lab.model(), rows(2), rows(1))


@parity
@pytest.mark.parametrize("save", [True, False])
def test_checkpoint_of_a_run_that_fails(pl, lab, save):
    class Failing(lab.Model):
        def training_step(self, batch, batch_idx):
            if self.current_epoch == 1:
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

    checkpoint = pl.callbacks.ModelCheckpoint(save_on_exception=save, every_n_epochs=5)
    with lab.raises("ZeroDivisionError"):
        lab.trainer(callbacks=[checkpoint], enable_checkpointing=True).fit(lab.model(Failing), rows(2))


@parity
def test_several_model_checkpoints(pl, lab):
    given = [
        pl.callbacks.ModelCheckpoint(monitor="val_loss", filename="best"),
        pl.callbacks.ModelCheckpoint(filename="{epoch}", save_top_k=-1),
    ]
    trainer = lab.trainer(callbacks=given, enable_checkpointing=True)
    trainer.fit(lab.model(), rows(2), rows(1))
    lab.note("first", [trainer.checkpoint_callback is given[0], len(trainer.checkpoint_callbacks)])


@parity
@pytest.mark.parametrize("logger", [False, True])
def test_where_checkpoints_are_by_default(pl, lab, logger):
    trainer = lab.trainer(logger=lab.logger if logger else False, enable_checkpointing=True)
    trainer.fit(lab.model(), rows(2))
    lab.note("callback", type(trainer.checkpoint_callback).__name__)


@parity
def test_csv_logger_and_its_directories(pl, lab):
    for _ in range(2):
        logger = pl.loggers.CSVLogger(lab.tmp_path)
        trainer = lab.trainer(logger=logger, enable_checkpointing=True, log_every_n_steps=2)
        trainer.fit(lab.model(), rows(3), rows(1))
        lab.note("log_dir", trainer.log_dir.replace(str(lab.tmp_path), ""))
        lab.note("csv", (lab.tmp_path / "lightning_logs" / f"version_{logger.version}" / "metrics.csv").read_text())


@parity
def test_tensorboard_logger_and_its_directories(pl, lab):
    class Model(lab.Model):
        def __init__(self, width=3):
            super().__init__()
            self.save_hyperparameters()

    logger = pl.loggers.TensorBoardLogger(lab.tmp_path, name="named", sub_dir="sub")
    lab.trainer(logger=logger, enable_checkpointing=True).fit(lab.model(Model), rows(3), rows(1))
    lab.note("hparams", next(lab.tmp_path.rglob("hparams.yaml")).read_text())


@parity
def test_what_a_checkpoint_holds(pl, lab):
    class Model(make_trained_model(lab)):
        def __init__(self, width=3):
            super().__init__()
            self.save_hyperparameters()

        def on_save_checkpoint(self, checkpoint):
            checkpoint["mine"] = [1, 2]

    class Data(lab.DataModule):
        def state_dict(self):
            return {"seen": 7}

    class Counter(pl.Callback):
        def state_dict(self):
            return {"count": 3}

    trainer = lab.trainer(callbacks=[Counter()])
    trainer.fit(lab.model(Model), datamodule=lab.datamodule(Data))
    trainer.save_checkpoint(lab.tmp_path / "all.ckpt")
    trainer.save_checkpoint(lab.tmp_path / "weights.ckpt", weights_only=True)
    for name in ("all", "weights"):
        saved = read(lab.tmp_path / f"{name}.ckpt")
        lab.note("keys", [key for key in LIGHTNING_KEYS if key in saved])
        for key in ("epoch", "global_step", "state_dict", "lr_schedulers", "hyper_parameters", "mine", "Data"):
            lab.note(key, saved.get(key))
        lab.note("optimizers", [state["state"] for state in saved.get("optimizer_states", [])])
        lab.note("counter", saved.get("callbacks", {}).get("Counter"))


@parity
@pytest.mark.parametrize("given", ["path", "last", "best"])
def test_resuming_at_the_end_of_an_epoch(pl, lab, given):
    """Two epochs, a new process's worth of objects, and two more."""
    for epochs in (2, 4):
        checkpoint = pl.callbacks.ModelCheckpoint(monitor="train_loss", save_last=True, dirpath=lab.tmp_path / "kept")
        stopping = pl.callbacks.EarlyStopping("train_loss", patience=9)
        callbacks = [checkpoint, stopping]
        trainer = lab.trainer(max_epochs=epochs, callbacks=callbacks, enable_checkpointing=True, num_sanity_val_steps=0)
        path = {"path": lab.tmp_path / "kept" / "last.ckpt"}.get(given, given) if epochs == 4 else None
        if given == "best" and epochs == 4:
            checkpoint.best_model_path = str(lab.tmp_path / "kept" / "last.ckpt")
        trainer.fit(lab.model(make_trained_model(lab)), rows(3), rows(1), ckpt_path=path)
        lab.note("stopping", stopping.state_dict())
        lab.note("best score", checkpoint.best_model_score)


@parity
def test_resuming_equals_never_having_stopped(pl, lab):
    Model = make_trained_model(lab)
    whole, half, rest = lab.model(Model), lab.model(Model), lab.model(Model)
    half.load_state_dict(whole.state_dict())
    data = rows(3)
    rest.load_state_dict(whole.state_dict())
    lab.trainer(max_epochs=4).fit(whole, data)
    trainer = lab.trainer(max_epochs=2)
    trainer.fit(half, data)
    trainer.save_checkpoint(lab.tmp_path / "half.ckpt")
    lab.trainer(max_epochs=4).fit(rest, data, ckpt_path=lab.tmp_path / "half.ckpt")
    lab.note("equal", [torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True)])


@parity
def test_resuming_hands_back_every_state(pl, lab):
    reason = "in Leyden every on_load_checkpoint sees the checkpoint before anything is restored from it"
    lab.differs(r"LightningDataModule.load_state_dict|^data: ", reason)

    class Model(make_trained_model(lab)):
        def on_save_checkpoint(self, checkpoint):
            checkpoint["mine"] = self.global_step

        def on_load_checkpoint(self, checkpoint):
            lab.note("mine", checkpoint["mine"])

    class Data(lab.DataModule):
        def train_dataloader(self):
            return rows(3)

        def state_dict(self):
            return {"seen": 7}

        def load_state_dict(self, state_dict):
            lab.note("data", state_dict)

    class Counter(pl.Callback):
        def __init__(self, name):
            self.name, self.count = name, 0

        @property
        def state_key(self):
            return f"Counter-{self.name}"

        def on_train_batch_end(self, *args):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state_dict):
            lab.note(self.name, state_dict)

        def on_load_checkpoint(self, trainer, pl_module, checkpoint):
            lab.note("whole checkpoint", checkpoint["epoch"])

    path = lab.tmp_path / "kept.ckpt"
    trainer = lab.trainer(max_epochs=1, callbacks=[Counter("a"), Counter("b")])
    trainer.fit(lab.model(Model), datamodule=lab.datamodule(Data))
    trainer.save_checkpoint(path)
    trainer = lab.trainer(max_epochs=2, callbacks=[Counter("a"), Counter("b")], num_sanity_val_steps=0)
    trainer.fit(lab.model(Model), datamodule=lab.datamodule(Data), ckpt_path=path)
    lab.note("test", trainer.test(lab.model(Model), datamodule=lab.datamodule(Data), ckpt_path=path))


@parity
@pytest.mark.parametrize("ckpt_path", [None, "best", "last"])
def test_evaluation_after_a_fit_takes_a_checkpoint(pl, lab, ckpt_path):
    """Without a model it is the best one, unless told otherwise."""
    checkpoint = pl.callbacks.ModelCheckpoint(monitor="train_loss", mode="max", save_last=True)
    trainer = lab.trainer(max_epochs=3, callbacks=[checkpoint], enable_checkpointing=True)
    model = lab.model()
    trainer.fit(model, rows(3), rows(1))
    lab.note("validate", trainer.validate(dataloaders=rows(2), ckpt_path=ckpt_path))
    lab.note("test", trainer.test(dataloaders=rows(2), ckpt_path=ckpt_path))
    lab.note("predict", trainer.predict(dataloaders=rows(2), ckpt_path=ckpt_path))
    lab.note("test with the model", trainer.test(model, rows(2), ckpt_path=ckpt_path))


@parity
@pytest.mark.parametrize(
    ("path", "error"),
    [("missing.ckpt", "FileNotFoundError"), ("best", "ValueError"), ("registry:x", "FileNotFoundError")],
)
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_checkpoint_that_does_not_exist(pl, lab, path, error, stage):
    trainer = lab.trainer(max_epochs=1)
    path = str(lab.tmp_path / path) if path.endswith(".ckpt") else path
    with lab.refuses(error):
        getattr(trainer, stage)(lab.model(), rows(1), ckpt_path=path)

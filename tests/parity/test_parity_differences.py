"""Where Leyden does otherwise than pytorch-lightning on purpose: one script, and what each of the two makes of it."""

import contextlib
import logging
import warnings

import pytest
import pytorch_lightning
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

import leyden
from leyden_testing.training import quiet_trainer

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


def by_both(script, tmp_path, *arguments):
    """What a script comes to in Leyden and in Lightning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's hints
        return [script(pl, tmp_path / pl.__name__, *arguments) for pl in (leyden, pytorch_lightning)]


def make_model(pl, **methods):
    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)
            self.trained, self.validated = [], []

        def training_step(self, batch, batch_idx):
            self.trained.append(self.current_epoch)
            self.log("constant", 1.0, on_epoch=True)
            return self.layer(torch.ones(1, 2)).sum()

        def validation_step(self, batch, batch_idx):
            self.validated.append(self.current_epoch)
            self.log("val", float(self.current_epoch))

        def configure_optimizers(self):
            return SGD(self.parameters(), lr=0.1)

    return type("Own", (Model,), methods)()


def fit(pl, directory, model, train, val=None, **options):
    trainer = quiet_trainer(directory, pl.Trainer, num_sanity_val_steps=0, **options)
    trainer.fit(model, train, val)
    return trainer


class Batches:
    """As many batches in each epoch as a list says; the length may say otherwise."""

    def __init__(self, counts, length=None):
        self.counts, self.length, self.epoch = counts, length, 0

    def __len__(self):
        return self.counts[min(self.epoch, len(self.counts) - 1)] if self.length is None else self.length

    def __iter__(self):
        count = self.counts[min(self.epoch, len(self.counts) - 1)]
        self.epoch += 1
        return iter(torch.ones(count, 1, 2))


def test_an_epoch_is_as_long_as_it_is(tmp_path):
    def script(pl, directory):
        model = make_model(pl)
        fit(pl, directory, model, Batches([3, 5, 2]), max_epochs=3, limit_val_batches=0)
        return [model.trained.count(epoch) for epoch in range(3)]

    ours, theirs = by_both(script, tmp_path)
    assert ours == [3, 5, 2]
    assert len(set(theirs)) == 1  # all epochs have the length of one of them


def test_a_loader_that_ends_early_is_validated_after(tmp_path):
    def script(pl, directory):
        model = make_model(pl)
        fit(pl, directory, model, Batches([3], length=5), Batches([1]), max_epochs=2)
        return model.validated

    assert by_both(script, tmp_path) == [[0, 1], []]


def test_the_next_fold_starts_anew(tmp_path):
    def script(pl, directory):
        callback = pl.callbacks.EarlyStopping("constant", patience=2)
        epochs = []
        for _ in range(2):
            model = make_model(pl)
            trainer = fit(pl, directory, model, Batches([1]), max_epochs=9, callbacks=[callback], limit_val_batches=0)
            epochs.append(trainer.current_epoch)
        return epochs

    assert by_both(script, tmp_path) == [[3, 3], [3, 1]]


def test_a_resumed_run_has_the_patience_that_is_asked_for(tmp_path):
    def script(pl, directory):
        def trained(patience, path=None):
            callback = pl.callbacks.EarlyStopping("constant", patience=patience)
            trainer = quiet_trainer(directory, pl.Trainer, max_epochs=20, callbacks=[callback], limit_val_batches=0)
            trainer.fit(make_model(pl), Batches([1]), ckpt_path=path)
            return trainer

        path = directory / "run.ckpt"
        trained(2).save_checkpoint(path)
        return trained(6, path).current_epoch

    assert by_both(script, tmp_path) == [7, 4]


@pytest.mark.parametrize("name", ["EarlyStopping", "ModelCheckpoint"])
def test_two_callbacks_may_differ_in_little(tmp_path, name):
    def script(pl, directory):
        kind = getattr(pl.callbacks, name)
        differ = {"EarlyStopping": "patience", "ModelCheckpoint": "dirpath"}[name]
        values = {"patience": (1, 2), "dirpath": (directory / "one", directory / "two")}[differ]
        callbacks = [kind(monitor="constant", **{differ: value}) for value in values]
        options = {"callbacks": callbacks, "enable_checkpointing": name == "ModelCheckpoint", "limit_val_batches": 0}
        try:
            fit(pl, directory, make_model(pl), Batches([1]), max_epochs=1, **options)
        except RuntimeError:
            return "refused"
        return "taken"

    assert by_both(script, tmp_path) == ["taken", "refused"]


def test_a_plateau_waits_for_the_validation(tmp_path):
    def script(pl, directory):
        def configure_optimizers(self):
            optimizer = SGD(self.parameters(), lr=0.1)
            scheduler = {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "val"}
            return {"optimizer": optimizer, "lr_scheduler": scheduler}

        model = make_model(pl, configure_optimizers=configure_optimizers)
        with contextlib.suppress(Exception):  # Lightning's error is of the first epoch, which has no value yet
            fit(pl, directory, model, Batches([1]), Batches([1]), max_epochs=4, check_val_every_n_epoch=2)
        return model.validated

    assert by_both(script, tmp_path) == [[1, 3], []]

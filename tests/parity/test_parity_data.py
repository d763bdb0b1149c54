"""Loaders: any iterable, several at once, limits, how often to validate, data modules."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from leyden_testing.models import rows

from .parity_harness import parity

LIMITS = [
    {"limit_train_batches": 3},
    {"limit_train_batches": 0.5},
    {"limit_train_batches": 1.0, "limit_val_batches": 1},
    {"limit_train_batches": 1, "limit_val_batches": 0.5},
    {"limit_train_batches": 0},
    {"limit_val_batches": 0},
    {"limit_val_batches": 0.0, "limit_train_batches": 2},
    {"limit_train_batches": 99, "limit_val_batches": 99},
    {"overfit_batches": 2},
    {"overfit_batches": 0.5},
    {"val_check_interval": 2},
    {"val_check_interval": 0.5},
    {"val_check_interval": 0.25},
    {"val_check_interval": 1.0},
    {"val_check_interval": 7, "check_val_every_n_epoch": None},
    {"val_check_interval": "00:05:00:00"},
    {"val_check_interval": {"seconds": 0}},
    {"check_val_every_n_epoch": 2},
    {"check_val_every_n_epoch": 2, "val_check_interval": 2},
    {"val_check_interval": 2, "accumulate_grad_batches": 5},
    {"num_sanity_val_steps": 0},
    {"num_sanity_val_steps": 1},
    {"num_sanity_val_steps": -1},
]


def make_indexed_model(lab):
    """A model for several evaluation loaders."""

    class Model(lab.Model):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.log("val_loss", self.loss(batch))

        def test_step(self, batch, batch_idx, dataloader_idx=0):
            self.log("test_loss", self.loss(batch))

        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            return self(batch[0])

    return Model


@parity
@pytest.mark.parametrize("options", LIMITS, ids=str)
def test_how_many_batches(pl, lab, options):
    class Data(lab.DataModule):
        def train_dataloader(self):
            return rows(5, shuffle=True)

        def val_dataloader(self):
            return rows(3)

    lab.trainer(max_epochs=3, **options).fit(lab.model(), datamodule=lab.datamodule(Data))


@parity
@pytest.mark.parametrize("epochs", [1, 2])
def test_reloading(pl, lab, epochs):
    """Without anything random: Lightning starts a reloaded loader's iterator twice, which draws random numbers."""

    class Model(lab.Model):
        def __init__(self):
            super().__init__()
            self.dropout = nn.Identity()

    class Data(lab.DataModule):
        def train_dataloader(self):
            return rows(3 + self.trainer.current_epoch)

    trainer = lab.trainer(max_epochs=4, reload_dataloaders_every_n_epochs=epochs)
    trainer.fit(lab.model(Model), datamodule=lab.datamodule(Data))


@parity
@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
@pytest.mark.parametrize("limit", [0, 1, 0.5, 0.1])
def test_limits_of_evaluation(pl, lab, stage, limit):
    """A fraction that leaves no batch of a loader is refused."""
    names = {"validate": "limit_val_batches", "test": "limit_test_batches", "predict": "limit_predict_batches"}
    trainer = lab.trainer(**{names[stage]: limit})
    with lab.refuses("MisconfigurationException") if limit == 0.1 else nullcontext():
        lab.note("result", getattr(trainer, stage)(lab.model(make_indexed_model(lab)), [rows(4), rows(10)]))


REFUSED = [
    {"limit_train_batches": 1.5},
    {"limit_val_batches": -1},
    {"overfit_batches": -0.1},
    {"val_check_interval": 1.5},
    {"val_check_interval": 0.5, "check_val_every_n_epoch": None},
    {"check_val_every_n_epoch": 0.5},
    {"val_check_interval": 9},
    {"limit_train_batches": 0.01},
    {"reload_dataloaders_every_n_epochs": -1},
    {"fast_dev_run": -2},
]


@parity
@pytest.mark.parametrize("options", REFUSED, ids=str)
def test_limits_that_make_no_sense(pl, lab, options):
    with lab.refuses("ValueError" if options == {"val_check_interval": 9} else "MisconfigurationException"):
        lab.trainer(**options).fit(lab.model(), rows(5), rows(3))


class Counting:
    """A plain iterable of batches without a length."""

    def __init__(self, batches):
        self.batches = list(rows(batches)) if isinstance(batches, int) else batches

    def __iter__(self):
        return iter(self.batches)


class Sized(Counting):
    """A plain iterable of batches that knows its length."""

    def __len__(self):
        return len(self.batches)


class Rows(IterableDataset):
    def __iter__(self):
        return iter(rows(3).dataset)


ITERABLES = {
    "with length": lambda: Sized(3),
    "without length": lambda: Counting(3),
    "iterable dataset": lambda: DataLoader(Rows(), batch_size=2),
    "batch sampler": lambda: DataLoader(
        rows(3).dataset, batch_sampler=BatchSampler(SequentialSampler(range(6)), 4, drop_last=True)
    ),
    "own sampler": lambda: DataLoader(rows(3).dataset, 2, sampler=WeightedRandomSampler([1.0] * 6, 6)),
    "no batching": lambda: DataLoader(rows(3).dataset, batch_size=None),
}


@parity
@pytest.mark.parametrize("kind", ITERABLES)
def test_anything_that_can_be_iterated(pl, lab, kind):
    class Model(lab.Model):
        def loss(self, batch):
            x = batch[0] if isinstance(batch, (list, tuple)) else batch
            return self(x).square().mean()

        def predict_step(self, batch, batch_idx):
            return self.loss(batch)

    trainer, model = lab.trainer(), lab.model(Model)
    trainer.fit(model, ITERABLES[kind](), ITERABLES[kind]())
    lab.note("test", trainer.test(model, ITERABLES[kind]()))
    lab.note("predict", trainer.predict(model, ITERABLES[kind]()))


@parity
@pytest.mark.parametrize(
    "options",
    [{"limit_train_batches": 2}, {"limit_train_batches": 0.5}, {"val_check_interval": 2}, {"val_check_interval": 0.5}],
    ids=str,
)
def test_limits_of_a_loader_without_length(pl, lab, options):
    """A fraction of something unknown is refused."""
    refused = any(isinstance(value, float) for value in options.values())
    with lab.refuses("MisconfigurationException") if refused else nullcontext():
        lab.trainer(**options).fit(lab.model(), Counting(5), rows(1))


COLLECTIONS = {
    "list": lambda: [rows(2), rows(3)],
    "dict": lambda: {"a": rows(2), "b": rows(3, batch_size=3)},
    "nested": lambda: {"a": [rows(2), rows(4)], "b": {"c": rows(3)}},
}


def make_collection_model(lab):
    class Model(lab.Model):
        def training_step(self, batch, batch_idx, dataloader_idx=0):
            tensors = torch.utils._pytree.tree_leaves(batch)
            lab.note(f"batch {batch_idx} of {dataloader_idx}", tensors)
            loss = self.layer.weight.sum()
            self.log("loss", loss, on_epoch=True)
            return loss

    return Model


@parity
@pytest.mark.parametrize("collection", COLLECTIONS)
def test_several_training_loaders(pl, lab, collection):
    lab.trainer().fit(lab.model(make_collection_model(lab)), COLLECTIONS[collection]())


@parity
@pytest.mark.parametrize("collection", COLLECTIONS)
@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle", "sequential"])
def test_modes_of_the_combined_loader(pl, lab, collection, mode):
    combined = pl.utilities.CombinedLoader(COLLECTIONS[collection](), mode)
    iter(combined)
    lab.note("length", len(combined))
    lab.note("by hand", list(combined))
    if mode != "sequential":  # training takes the modes that give one batch of all
        lab.trainer(limit_train_batches=3).fit(lab.model(make_collection_model(lab)), combined)


@parity
def test_combined_loader_of_iterables_without_length(pl, lab):
    for mode in ("min_size", "max_size", "max_size_cycle"):
        lab.note(mode, list(pl.utilities.CombinedLoader({"a": Counting(2), "b": Counting(3)}, mode)))


@parity
def test_combined_loader_of_an_unknown_mode(pl, lab):
    with lab.raises("ValueError"):
        pl.utilities.CombinedLoader([rows(1)], "longest")


@parity
@pytest.mark.parametrize("mode", ["min_size", "max_size_cycle", "sequential"])
def test_evaluation_with_a_combined_loader(pl, lab, mode):
    class Model(lab.Model):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            lab.note(f"batch {batch_idx} of {dataloader_idx}", batch)
            self.log("val", float(batch_idx))

    combined = pl.utilities.CombinedLoader([rows(2), rows(3)], mode)
    lab.note("result", lab.trainer().validate(lab.model(Model), combined))


@parity
def test_several_prediction_loaders(pl, lab):
    class Model(lab.Model):
        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            return {"sum": batch[0].sum(), "where": (batch_idx, dataloader_idx)}

    trainer = lab.trainer()
    lab.note("predictions", trainer.predict(lab.model(Model), [rows(2), rows(3)]))
    lab.note("not returned", trainer.predict(lab.model(Model), rows(2), return_predictions=False))


@parity
def test_prediction_writer(pl, lab):
    class Writer(pl.callbacks.BasePredictionWriter):
        def write_on_batch_end(self, trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx):
            lab.note(f"batch {batch_idx} of {dataloader_idx}", [prediction, batch_indices])

        def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
            lab.note("epoch", [predictions, batch_indices])

    trainer = lab.trainer(callbacks=[Writer("batch_and_epoch")])
    lab.note("returned", trainer.predict(lab.model(make_indexed_model(lab)), [rows(2), rows(1)]))


@parity
def test_loaders_with_workers(pl, lab):
    samples = rows(3).dataset
    lab.trainer(max_epochs=2).fit(lab.model(), DataLoader(samples, 2, shuffle=True, num_workers=1), rows(1))


@parity
def test_a_batch_that_is_none_is_skipped(pl, lab):
    lab.differs("log_metrics", "a batch that is none is no step, so Leyden logs nothing for it and counts none")
    lab.trainer().fit(lab.model(), Sized([*rows(2), None, *rows(1)]))


@parity
def test_shuffling_of_several_epochs(pl, lab):
    class Model(lab.Model):
        def training_step(self, batch, batch_idx):
            lab.note("batch", batch[0])
            return super().training_step(batch, batch_idx)

    lab.trainer(max_epochs=3).fit(lab.model(Model), rows(3, shuffle=True), rows(2, shuffle=True))


@parity
def test_empty_validation_loader(pl, lab):
    lab.trainer().fit(lab.model(), rows(2), Sized([]))


@parity
def test_empty_training_loader(pl, lab):
    lab.trainer().fit(lab.model(), Sized([]), rows(2))


@parity
def test_datamodule_by_hand(pl, lab):
    data = lab.DataModule()
    data.prepare_data()
    data.setup("fit")
    lab.note("batches", list(data.val_dataloader()))
    lab.note("trainer", data.trainer)


@parity
def test_datamodule_from_datasets(pl, lab):
    samples = rows(3).dataset
    data = pl.LightningDataModule.from_datasets(samples, samples, [samples, samples], batch_size=2)
    trainer, model = lab.trainer(max_epochs=1), lab.model(make_indexed_model(lab))
    trainer.fit(model, datamodule=data)
    lab.note("test", trainer.test(model, datamodule=data))


@parity
def test_datamodule_with_hyperparameters(pl, lab):
    class Data(lab.DataModule):
        def __init__(self, size, name="digits", **more):
            super().__init__()
            self.save_hyperparameters(ignore=["name"])

    data = Data(3, other=4)
    lab.note("hparams", dict(data.hparams))
    lab.note("attribute", data.hparams.size)


@parity
def test_prepare_data_and_setup_run_once_per_stage(pl, lab):
    trainer, model, data = lab.trainer(max_epochs=1), lab.model(), lab.datamodule()
    trainer.fit(model, datamodule=data)
    trainer.validate(model, datamodule=data)
    trainer.predict(model, datamodule=data)


@parity
def test_attributes_that_hold_the_loaders(pl, lab):
    train, val, test = rows(2), [rows(1), rows(1)], rows(1)
    trainer, model = lab.trainer(max_epochs=1), lab.model(make_indexed_model(lab))
    trainer.fit(model, train, val)
    lab.note("is the loader", [trainer.train_dataloader is train, trainer.val_dataloaders is val])
    trainer.test(model, test)
    lab.note("is the test loader", trainer.test_dataloaders is test)


@parity
def test_batches_of_unusual_shape(pl, lab):
    class Model(lab.Model):
        def loss(self, batch):
            return super().loss((batch["rows"]["x"], batch["rows"]["y"]))

    def collate(rows):
        x, y = (torch.stack(column) for column in zip(*rows, strict=True))
        return {"rows": {"x": x, "y": y}, "names": ["a"] * len(rows), "number": 3}

    lab.trainer().fit(lab.model(Model), DataLoader(rows(3).dataset, 2, collate_fn=collate))


@parity
def test_a_dataset_of_one_tensor(pl, lab):
    class Model(lab.Model):
        def training_step(self, batch, batch_idx):
            return self(batch[0]).sum()

    lab.trainer().fit(lab.model(Model), DataLoader(TensorDataset(torch.ones(3, 4)), 2, drop_last=True))


@parity
def test_a_sampler_is_told_each_epoch_once(pl, lab):
    told = []

    class Told(SequentialSampler):
        def set_epoch(self, epoch):
            told.append(epoch)

    data = rows(4).dataset
    lab.trainer(max_epochs=3).fit(lab.model(), DataLoader(data, sampler=Told(data), batch_size=2))
    lab.note("told", told)


@parity
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_steps_that_take_any_arguments(pl, lab, stage):
    """They pass on what they get to the ordinary steps, which know of no loader."""

    class Model(lab.Model):
        def training_step(self, *args, **kwargs):
            return super().training_step(*args, **kwargs)

        def validation_step(self, *args, **kwargs):
            return super().validation_step(*args, **kwargs)

        def test_step(self, *args, **kwargs):
            return super().test_step(*args, **kwargs)

        def predict_step(self, *args, **kwargs):
            return super().predict_step(*args, **kwargs)

    loaders = [rows(2), rows(1)] if stage == "fit" else [rows(2)]
    getattr(lab.trainer(), stage)(lab.model(Model), *loaders)


@parity
def test_samplers_of_a_combined_loader(pl, lab):
    combined = pl.utilities.CombinedLoader({"a": rows(2), "b": [rows(1, shuffle=True), range(3)]}, "min_size")
    for samplers in (combined.sampler, combined.batch_sampler):
        lab.note("samplers", [type(samplers["a"]).__name__, *(type(one).__name__ for one in samplers["b"])])

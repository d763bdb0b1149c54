"""A Trainer can be pickled and deep-copied, whatever it has run; the copy has what it had, and runs on its own."""

import copy
import pickle

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset

import leyden as pl
from leyden.utilities import CombinedLoader
from leyden_testing.models import RecordingLogger, ValidatedModel
from leyden_testing.training import Rows, quiet_trainer, same_weights, weights


class Stream(IterableDataset):
    def __iter__(self):
        yield from Rows(8)


class Model(ValidatedModel):
    broken = False

    def validation_step(self, batch, batch_idx):
        if self.broken and batch_idx:
            raise ValueError("a broken sample")
        super().validation_step(batch, batch_idx)

    def configure_optimizers(self):
        optimizer = SGD(self.parameters(), 0.1)
        return [optimizer], [LambdaLR(optimizer, lambda epoch: 0.5**epoch)]


def copy_by_pickle(value):
    return pickle.loads(pickle.dumps(value))


def data(kind, **workers):
    return DataLoader(Rows(8) if kind == "map" else Stream(), 2, **workers)


WAYS = {"pickle": copy_by_pickle, "deepcopy": copy.deepcopy}


@pytest.fixture(params=WAYS)
def copied(request):
    return WAYS[request.param]


@pytest.mark.parametrize("what", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("kind", ["map", "stream"])
def test_a_copy_has_what_was_there_and_goes_on_as_the_original_would(tmp_path, copied, kind, what):
    trainer, model, loader = quiet_trainer(tmp_path), Model(), data(kind)
    options = {"val_dataloaders": loader} if what == "fit" else {}
    getattr(trainer, what)(model, loader, **options)
    twin = copied(trainer)
    assert (twin.current_epoch, twin.global_step, twin.state.fn) == (trainer.current_epoch, trainer.global_step, what)
    assert twin.callback_metrics == trainer.callback_metrics
    assert twin.model is not model
    assert same_weights(weights(twin.model), weights(model))
    for each in (trainer, twin):
        each.fit_loop.max_epochs = 2
        each.fit(each.model, data(kind), data(kind))
    assert (twin.current_epoch, twin.callback_metrics) == (2, trainer.callback_metrics)
    assert same_weights(weights(twin.model), weights(model))


@pytest.mark.parametrize("persistent", [False, True])
def test_with_workers(tmp_path, copied, persistent):
    trainer, workers = quiet_trainer(tmp_path), {"num_workers": 1, "persistent_workers": persistent}
    trainer.fit(Model(), data("map", **workers), data("stream", **workers))
    twin = copied(trainer)
    twin.fit(twin.model, data("map"), data("map"))
    assert twin.current_epoch == 1


class Copy(pl.Callback):
    """Copies the Trainer in its hooks."""

    def __init__(self, copied):
        self.copied = copied

    def on_train_batch_end(self, trainer, *args):
        self.copied(trainer)

    on_validation_batch_end = on_exception = on_train_batch_end


def test_within_a_hook_and_after_a_run_that_failed(tmp_path, copied):
    options = {"logger": RecordingLogger(), "log_every_n_steps": 1}
    trainer, model = quiet_trainer(tmp_path, callbacks=[Copy(copied)], **options), Model()
    model.broken = True
    with pytest.raises(ValueError, match="a broken sample"):
        trainer.fit(model, data("map"), data("stream"))
    twin = copied(trainer)
    assert twin.interrupted
    twin.fit(Model(), data("map"), data("map"))
    assert twin.state.finished


def test_a_copy_saves_weights_alone(tmp_path, copied):
    """Its optimizers are the original's, which saves them still."""
    trainer = quiet_trainer(tmp_path)
    trainer.fit(Model(), data("map"), data("map"))
    with pytest.warns(UserWarning, match=r"no optimizers.*it is a copy: the checkpoint has the weights alone"):
        copied(trainer).save_checkpoint(tmp_path / "copy.ckpt")
    trainer.save_checkpoint(tmp_path / "original.ckpt")
    saved = [torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("copy", "original")]
    assert ["optimizer_states" in each for each in saved] == [False, True]


def test_a_combined_loader_half_read(copied):
    loader = CombinedLoader({"a": range(3), "b": ["xyzw", data("map")]}, "max_size_cycle")
    loader.limits = [3, 4, 4]
    rest = iter(loader)
    next(rest)
    twin = copied(loader)
    assert (twin.mode, twin.limits) == ("max_size_cycle", [3, 4, 4])
    assert [(batch["a"], batch["b"][0], i) for batch, i, _ in twin] == [
        (0, "x", 0),
        (1, "y", 1),
        (2, "z", 2),
        (0, "w", 3),
    ]
    assert next(rest)[1] == 1

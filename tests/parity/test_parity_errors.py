"""Misuse: both frameworks refuse it with an exception of the same type."""

import pytest

from leyden_testing.models import rows

from .parity_harness import parity


@parity
@pytest.mark.parametrize("method", ["training_step", "configure_optimizers", "train_dataloader"])
def test_fit_without_what_it_needs(pl, lab, method):
    class Model(lab.Model):
        pass

    setattr(Model, method, getattr(pl.LightningModule, method))
    arguments = [] if method == "train_dataloader" else [rows(1)]
    with lab.refuses("MisconfigurationException"):
        lab.trainer().fit(lab.model(Model), *arguments)


@parity
@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_without_a_step(pl, lab, stage):
    class Model(pl.LightningModule):
        pass

    with lab.refuses("MisconfigurationException"):
        getattr(lab.trainer(), stage)(lab.model(Model), rows(1))


@parity
@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_without_a_loader(pl, lab, stage):
    with lab.refuses("MisconfigurationException"):
        getattr(lab.trainer(), stage)(lab.model())


@parity
def test_validation_loader_without_a_validation_step_is_ignored(pl, lab):
    class Model(lab.Model):
        validation_step = pl.LightningModule.validation_step

    lab.trainer().fit(lab.model(Model), rows(2), rows(1))


@parity
def test_validation_step_without_a_loader_is_ignored(pl, lab):
    lab.trainer().fit(lab.model(), rows(2))


@parity
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize(("data", "error"), [(7, "TypeError"), (None, "MisconfigurationException")])
def test_a_loader_that_is_none(pl, lab, stage, data, error):
    with lab.refuses(error):
        getattr(lab.trainer(), stage)(lab.model(), data)


@parity
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_something_that_is_no_model(pl, lab, stage):
    with lab.refuses("TypeError"):
        getattr(lab.trainer(), stage)(rows(1), rows(1))


@parity
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_loader_and_datamodule_together(pl, lab, stage):
    with lab.refuses("MisconfigurationException"):
        getattr(lab.trainer(), stage)(lab.model(), rows(1), datamodule=lab.datamodule())


@parity
@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_without_a_model_before_any_fit(pl, lab, stage):
    with lab.refuses("TypeError"):
        getattr(lab.trainer(), stage)(dataloaders=rows(1))


ARGUMENTS = [
    ("ValueError", {"accelerator": "abacus"}),
    ("ValueError", {"strategy": "teamwork"}),
    ("ValueError", {"precision": "31-true"}),
    ("ValueError", {"num_nodes": 0}),
    ("ValueError", {"barebones": True, "enable_progress_bar": True}),
    ("ValueError", {"barebones": True, "profiler": "simple"}),
    ("ValueError", {"barebones": True, "detect_anomaly": True}),
    ("TypeError", {"devices": "two"}),
    ("TypeError", {"devices": [0, 0]}),
    ("TypeError", {"devices": -2}),
    ("TypeError", {"gradient_clip_val": "much"}),
    ("TypeError", {"no_such_argument": 1}),
    ("MisconfigurationException", {"devices": 0}),
    ("MisconfigurationException", {"profiler": "guess"}),
    ("MisconfigurationException", {"plugins": ["unknown"]}),
    ("MisconfigurationException", {"gradient_clip_algorithm": "scissors"}),
    ("MisconfigurationException", {"max_time": "soon"}),
    ("MisconfigurationException", {"max_epochs": -2}),
    ("MisconfigurationException", {"max_steps": -2}),
]


@parity
@pytest.mark.parametrize(("error", "options"), ARGUMENTS, ids=str)
def test_argument_of_the_trainer(pl, lab, error, options):
    with lab.refuses(error):
        pl.Trainer(**{"accelerator": "cpu", "default_root_dir": lab.tmp_path, **options})


@parity
def test_checkpoint_callback_with_checkpointing_off(pl, lab):
    with lab.refuses("MisconfigurationException"):
        lab.trainer(enable_checkpointing=False, callbacks=[pl.callbacks.ModelCheckpoint()])


@parity
def test_two_callbacks_with_state_and_the_same_key(pl, lab):
    class Counter(pl.Callback):
        def state_dict(self):
            return {"count": 1}

    with lab.refuses("RuntimeError"):
        lab.trainer(callbacks=[Counter(), Counter()])


@parity
def test_two_progress_bars(pl, lab):
    bars = [pl.callbacks.TQDMProgressBar(), pl.callbacks.TQDMProgressBar()]
    with lab.refuses("MisconfigurationException"):
        lab.trainer(callbacks=bars, enable_progress_bar=True)


@parity
def test_saving_before_there_is_a_model(pl, lab):
    with lab.refuses("AttributeError"):
        lab.trainer().save_checkpoint(lab.tmp_path / "x.ckpt")


@parity
def test_step_with_too_many_arguments(pl, lab):
    class Model(lab.Model):
        def training_step(self, batch, batch_idx, what, more):
            return self.loss(batch)

    with lab.refuses("TypeError"):
        lab.trainer().fit(lab.model(Model), rows(1))


@parity
def test_two_validation_loaders_and_a_step_without_their_index(pl, lab):
    with lab.refuses("RuntimeError"):
        lab.trainer().validate(lab.model(), [rows(1), rows(1)])


@parity
def test_loader_that_raises(pl, lab):
    class Model(lab.Model):
        def train_dataloader(self):
            raise ZeroDivisionError

    with lab.raises("ZeroDivisionError"):
        lab.trainer().fit(lab.model(Model))


@parity
def test_dataset_that_raises(pl, lab):
    class Broken:
        def __len__(self):
            return 4

        def __getitem__(self, index):
            raise ZeroDivisionError

    with lab.raises("ZeroDivisionError"):
        lab.trainer().fit(lab.model(), Broken())


@parity
@pytest.mark.parametrize("seed", [-1, 2**32, "many", None])
def test_seed_everything(pl, lab, seed):
    if isinstance(seed, str) or seed in (-1, 2**32):
        with lab.raises("ValueError"):
            pl.seed_everything(seed)
    else:
        lab.note("seed", pl.seed_everything(seed))

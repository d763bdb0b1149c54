"""Validation, test and prediction: modes, gradients, what is returned, whose weights."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import leyden as pl
from leyden import hookimpl
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.models import Given, LoggingModel, RecordingLogger, ValidatedModel, rows
from leyden_testing.training import quiet_trainer, same_weights, weights

STAGES = ["validate", "test", "predict"]
STEPS = {"validate": "validation_step", "test": "test_step", "predict": "predict_step"}


def model_of(stage, step, base=LoggingModel):
    """A model with this step for this stage."""
    return type("Model", (base,), {STEPS[stage]: step})()


# -- modes and gradients ------------------------------------------------------------------------------------


class Parts(LoggingModel):
    """Submodules that are in different modes."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.frozen.eval()
        self.frozen[1].train()
        self.seen = []

    def look(self, batch, batch_idx):
        self.seen.append(
            (any(m.training for m in self.modules()), torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        )

    validation_step = test_step = predict_step = look


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("stage", STAGES)
def test_evaluation_is_without_gradients_and_leaves_every_mode_as_it_was(tmp_path, stage, inference):
    model = Parts()
    modes = {name: part.training for name, part in model.named_modules()}
    getattr(quiet_trainer(tmp_path, inference_mode=inference), stage)(model, rows(1))
    assert model.seen == [(False, False, inference)]
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert torch.is_grad_enabled()


@pytest.mark.filterwarnings("ignore:.*in evaluation mode")
def test_validation_within_a_fit_restores_modes_and_gradients(tmp_path):
    class Model(Parts):
        def training_step(self, batch, batch_idx):
            self.modes = {name: part.training for name, part in self.named_modules()}
            assert torch.is_grad_enabled()
            return self.loss(batch)

    model = Model()
    modes = {name: part.training for name, part in model.named_modules()}
    quiet_trainer(tmp_path, val_check_interval=1).fit(model, rows(2), rows(1))
    assert model.modes == modes
    assert set(model.seen) == {(False, False, False)}


def test_gradients_can_be_turned_on_in_a_validation_step(tmp_path):
    def step(self, batch, batch_idx):
        with torch.enable_grad():
            self.loss(batch).backward()
        self.grad = self.layer.weight.grad.clone()

    model = model_of("validate", step)
    quiet_trainer(tmp_path, inference_mode=False).validate(model, rows(1))
    assert model.grad.abs().sum() > 0


@pytest.mark.parametrize("stage", STAGES)
def test_modes_are_restored_after_an_own_hook_only_by_it(tmp_path, stage):
    name = {"validate": "validation"}.get(stage, stage)
    calls = []
    methods = {
        f"on_{name}_model_eval": lambda self: calls.append("eval"),
        f"on_{name}_model_train": lambda self: calls.append("train"),
        STEPS[stage]: lambda self, batch, batch_idx: calls.append(self.training),
    }
    getattr(quiet_trainer(tmp_path), stage)(type("Model", (LoggingModel,), methods)(), rows(1))
    assert calls == ["eval", True, "train"]


def test_weights_do_not_change(tmp_path):
    model = ValidatedModel()
    before, trainer = weights(model), quiet_trainer(tmp_path)
    for stage in STAGES:
        getattr(trainer, stage)(model, rows(2))
    assert same_weights(model, before)


# -- steps and their arguments ------------------------------------------------------------------------------


SIGNATURES = {
    "batch": lambda self, batch: self.seen.append((batch,)),
    "batch, batch_idx": lambda self, batch, batch_idx: self.seen.append((batch, batch_idx)),
    "all": lambda self, batch, batch_idx, dataloader_idx: self.seen.append((batch, batch_idx, dataloader_idx)),
    "default": lambda self, batch, batch_idx, dataloader_idx=7: self.seen.append((batch, batch_idx, dataloader_idx)),
    "any": lambda self, *arguments: self.seen.append(arguments),
}


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_takes_as_much_as_it_wants(tmp_path, stage, signature):
    model = model_of(stage, SIGNATURES[signature])
    model.seen = []
    getattr(quiet_trainer(tmp_path), stage)(model, Given("a", "b"))
    count = len(model.seen[0])
    assert model.seen == [("a", 0, 0)[:count], ("b", 1, 0)[:count]]
    assert count == {"batch": 1, "batch, batch_idx": 2, "any": 2}.get(signature, 3)


@pytest.mark.parametrize("stage", STAGES)
def test_several_loaders(tmp_path, stage):
    model = model_of(stage, SIGNATURES["all"])
    model.seen = []
    getattr(quiet_trainer(tmp_path), stage)(model, [Given("a", "b"), Given("c")])
    assert model.seen == [("a", 0, 0), ("b", 1, 0), ("c", 0, 1)]


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_that_passes_on_whatever_it_is_given(tmp_path, stage):
    """It is told of the loader only where there are several, as the step behind it may not know of loaders."""
    model = model_of(stage, SIGNATURES["any"])
    model.seen = []
    getattr(quiet_trainer(tmp_path), stage)(model, Given("a"))
    getattr(quiet_trainer(tmp_path), stage)(model, [Given("b"), Given("c")])
    assert model.seen == [("a", 0), ("b", 0, 0), ("c", 0, 1)]


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_that_can_not_tell_its_loaders_apart_is_refused(tmp_path, stage):
    model = model_of(stage, lambda self, batch, batch_idx: None)
    with pytest.raises(RuntimeError, match=f"{STEPS[stage]} must take dataloader_idx"):
        getattr(quiet_trainer(tmp_path), stage)(model, [rows(1), rows(1)])


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_a_missing_step_is_named(tmp_path, stage):
    class Bare(pl.LightningModule):
        pass

    with pytest.raises(MisconfigurationException, match=f"Bare has no {STEPS[stage]}"):
        getattr(quiet_trainer(tmp_path), stage)(Bare(), rows(1))


# -- results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_results_are_returned_and_shown(tmp_path, stage):
    shown: list[Any] = []

    @hookimpl(tryfirst=True)
    def leyden_show_results(trainer, stage, results):
        shown.append((stage, results))
        return True

    def step(self, batch, batch_idx):
        self.log("accuracy", 0.25 + batch_idx)
        self.log("hidden", 1.0, logger=False)

    trainer = quiet_trainer(tmp_path, plugins=[SimpleNamespace(leyden_show_results=leyden_show_results)])
    results = getattr(trainer, stage)(model_of(stage, step), Given(torch.ones(1), torch.ones(1)))
    assert results == [{"accuracy": 0.75}]
    assert type(results[0]["accuracy"]) is float
    assert shown == [(stage, results)]
    assert trainer.callback_metrics.keys() == {"accuracy", "hidden"}
    getattr(trainer, stage)(model_of(stage, step), Given(torch.ones(1)), verbose=False)
    assert len(shown) == 1


def test_results_go_to_the_loggers(tmp_path):
    logger = RecordingLogger()
    trainer = quiet_trainer(tmp_path, logger=logger, log_every_n_steps=1)
    model = ValidatedModel()
    trainer.fit(model, rows(2), rows(1))
    trainer.test(model, rows(1), verbose=False)
    assert [step for step, _ in logger.values("test_loss")] == [2]
    assert logger.ended == ["success", "success"]


def test_nothing_logged_is_one_empty_result_per_loader(tmp_path):
    model = model_of("test", lambda self, batch, batch_idx, dataloader_idx: None)
    assert quiet_trainer(tmp_path).test(model, [rows(1), rows(1)]) == [{}, {}]


def test_an_empty_loader_among_others_keeps_its_place(tmp_path):
    model = model_of("test", lambda self, batch, batch_idx, dataloader_idx: self.log("value", batch.mean()))
    found = quiet_trainer(tmp_path).test(model, [Given(torch.ones(1)), Given(), Given(torch.zeros(1)), Given()])
    assert found == [{"value/dataloader_idx_0": 1.0}, {}, {"value/dataloader_idx_2": 0.0}, {}]


def test_predictions_of_one_and_of_several_loaders(tmp_path):
    model, trainer = LoggingModel(), quiet_trainer(tmp_path)
    model.predict_step = lambda batch, batch_idx, dataloader_idx=0: batch * 10
    assert trainer.predict(model, Given(1, 2)) == [10, 20]
    assert trainer.predict(model, [Given(1, 2), Given(3)]) == [[10, 20], [30]]
    assert trainer.predict(model, Given(1), return_predictions=False) is None


def test_forward_predicts_by_default(tmp_path):
    class Plain(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x):
            return self.layer(x)

    model, batch = Plain(), torch.ones(3, 2)
    predictions = quiet_trainer(tmp_path).predict(model, Given(batch, batch))
    assert len(predictions) == 2
    assert torch.equal(predictions[0], model(batch).detach())
    assert not predictions[0].requires_grad


def test_predictions_can_be_any_structure(tmp_path):
    model = LoggingModel()
    model.predict_step = lambda batch, batch_idx: {"x": batch, "n": [batch_idx, None]}
    assert quiet_trainer(tmp_path).predict(model, Given("a")) == [{"x": "a", "n": [0, None]}]


# -- whose weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_without_a_model_the_fitted_one_is_taken(tmp_path, stage):
    model, trainer = ValidatedModel(), quiet_trainer(tmp_path)
    trainer.fit(model, rows(2), rows(1))
    fitted = weights(model)
    getattr(trainer, stage)(dataloaders=rows(1))
    assert trainer.lightning_module is model
    assert same_weights(model, fitted)


@pytest.mark.parametrize("stage", STAGES)
def test_without_any_model_it_is_an_error(tmp_path, stage):
    with pytest.raises(TypeError, match=f"{stage}.*without a model"):
        getattr(quiet_trainer(tmp_path), stage)(dataloaders=rows(1))


@pytest.mark.parametrize("stage", ["fit", *STAGES])
def test_what_is_no_lightning_module_is_refused(tmp_path, stage):
    with pytest.raises(TypeError, match=r"needs a LightningModule.*Linear"):
        getattr(quiet_trainer(tmp_path), stage)(nn.Linear(1, 1), rows(1))


def test_all_stages_after_one_another(tmp_path):
    """Each as if it were alone; a second fit trains on."""
    model, trainer = ValidatedModel(), quiet_trainer(tmp_path)
    trainer.fit(model, rows(2), rows(1))
    first = trainer.validate(model, rows(3), verbose=False)
    assert trainer.test(model, rows(3), verbose=False)[0]["test_loss"] == pytest.approx(first[0]["val_loss"])
    assert len(trainer.predict(model, rows(3))) == 3
    assert (trainer.current_epoch, trainer.global_step) == (1, 2)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, rows(2), rows(1))
    assert (trainer.current_epoch, trainer.global_step) == (3, 6)
    assert trainer.state.fn == "fit"
    assert trainer.state.finished


def test_fast_dev_run_tries_one_batch_of_everything(tmp_path):
    model, trainer = ValidatedModel(), quiet_trainer(tmp_path, fast_dev_run=True, max_epochs=5)
    trainer.fit(model, rows(4), rows(4))
    assert (trainer.global_step, trainer.num_training_batches, trainer.num_val_batches) == (1, 1, [1])
    trainer.test(model, rows(4), verbose=False)
    assert len(trainer.predict(model, rows(4))) == 1
    several = quiet_trainer(tmp_path, fast_dev_run=3)
    several.fit(model, rows(4), rows(4))
    assert (several.global_step, several.num_val_batches) == (3, [3])


@pytest.mark.parametrize("value", [-1, "yes", 1.5])
def test_fast_dev_run_that_means_nothing(tmp_path, value):
    with pytest.raises(MisconfigurationException, match="fast_dev_run"):
        quiet_trainer(tmp_path, fast_dev_run=value)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_within_a_run_is_refused(tmp_path, stage):
    class Nested(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            getattr(trainer, stage)(pl_module, rows(1))

    trainer = quiet_trainer(tmp_path, callbacks=[Nested()])
    with pytest.raises(MisconfigurationException, match=rf"^Trainer\.{stage}\(\) was called within Trainer\.fit\(\)"):
        trainer.fit(ValidatedModel(), rows(1), rows(1))
    getattr(trainer, stage)(ValidatedModel(), rows(1))  # after it, it may

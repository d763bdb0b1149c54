"""What is wrong with a model's methods: said before any data is read, but for what a step returns."""

import re

import pytest
import torch

import leyden as pl
from leyden.utilities import MisconfigurationException
from leyden_testing.models import Batches, EveryStep, SmallModel
from leyden_testing.training import quiet_trainer

STAGES = ["fit", "validate", "test", "predict"]


def refused(root, said, model, stage="fit"):
    """The run is refused in a sentence that matches ``said``, and no batch is drawn."""
    data = [Batches(), Batches()] if stage == "fit" else [Batches()]
    with pytest.raises(MisconfigurationException, match=said) as caught:
        getattr(quiet_trainer(root), stage)(model, *data)
    assert str(caught.value)[-1] in ".?!"
    assert [loader.drawn for loader in data] == [0] * len(data)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("wrong", [lambda: None, lambda batch, batch_idx, idx, more: None, lambda batch, *, more: None])
def test_a_step_that_can_not_be_called(tmp_path, stage, wrong):
    step = {"fit": "training", "validate": "validation"}.get(stage, stage) + "_step"
    model = EveryStep()
    setattr(model, step, wrong)
    offered = "batch, batch_idx" if stage == "fit" else "batch, batch_idx, dataloader_idx"
    refused(tmp_path, rf"^EveryStep\.{step}\(.*\) can't be called: it is given {offered}, or fewer", model, stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_that_would_draw_its_batches_itself(tmp_path, stage):
    step = {"fit": "training", "validate": "validation"}.get(stage, stage) + "_step"
    model = EveryStep()
    setattr(model, step, lambda dataloader_iter: None)
    refused(tmp_path, rf"^EveryStep\.{step} takes dataloader_iter, but the loops draw the batches", model, stage)


def test_a_validation_step_that_can_not_be_called_in_a_fit(tmp_path):
    model = EveryStep()
    model.validation_step = lambda: None
    refused(tmp_path, r"^EveryStep\.validation_step\(\) can't be called", model)


def test_a_predict_step_that_is_none(tmp_path):
    class Model(EveryStep):
        predict_step = None

    refused(tmp_path, r"^Model has no predict_step and no forward; define one", Model(), "predict")


@pytest.mark.parametrize("returned", [7, [7], "EarlyStopping", [pl.Callback]], ids=str)
def test_what_configure_callbacks_may_not_return(tmp_path, returned):
    model = EveryStep()
    model.configure_callbacks = lambda: returned
    refused(tmp_path, f"^configure_callbacks returned {re.escape(repr(returned))}; return a list of callbacks", model)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ({"optimizer": "sgd"}, r"'sgd' in an optimizer's place\.$"),
        (([7], []), r"7 in an optimizer's place\.$"),
        (([], [7]), "^7 is no scheduler: it has no step"),
    ],
    ids=str,
)
def test_what_is_no_optimizer_and_no_scheduler(tmp_path, returned, said):
    model = EveryStep()
    model.configure_optimizers = lambda: returned
    refused(tmp_path, said, model)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda loss: loss.detach(), r"^The loss is a tensor of shape \(\) without a gradient; it must be one number"),
        (lambda loss: torch.stack([loss, loss]), r"^The loss is a tensor of shape \(2,\) with a gradient; it must be"),
    ],
    ids=["detached", "two numbers"],
)
@pytest.mark.parametrize("manual", [False, True])
def test_a_loss_that_nobody_can_go_backward_on(tmp_path, manual, change, said):
    """That is known when the step has run."""

    class Model(SmallModel):
        def training_step(self, batch, batch_idx):
            loss = change(super().training_step(batch, batch_idx))
            if manual:
                self.manual_backward(loss)
            return loss

    model = Model()
    model.automatic_optimization = not manual
    with pytest.raises(MisconfigurationException, match=said):
        quiet_trainer(tmp_path).fit(model, Batches())


def test_an_error_of_the_users_own_in_backward_is_left_as_it_is(tmp_path):
    class Model(SmallModel):
        def backward(self, loss):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"^mine$") as caught:
        quiet_trainer(tmp_path).fit(Model(), Batches())
    assert type(caught.value) is RuntimeError

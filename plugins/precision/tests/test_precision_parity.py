"""The same runs in pytorch-lightning and Leyden: weights, metrics, predictions and hooks are equal to the last bit."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.amp import GradScaler

import leyden as pl
from leyden.plugins import MixedPrecision

NAMES = ["16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"]
HOOKS = ["on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"]


def recorder(library, lines):
    class Recorder(library.Callback):
        def setup(self, trainer, pl_module, stage):
            lines.append(("setup", trainer.precision))

    def hook(name):
        def record(self, trainer, pl_module, *values):
            grads = [None if p.grad is None else p.grad.tolist() for p in pl_module.parameters()]
            losses = [value.item() for value in values if torch.is_tensor(value)]
            lines.append((name, losses, grads))

        return record

    for name in HOOKS:
        setattr(Recorder, name, hook(name))
    return Recorder()


def mixed_float16(library, lightning):
    """Make the precision plugin itself, since by name Lightning would use bfloat16 on the CPU."""
    kind = MixedPrecision if library is pl else lightning.plugins.MixedPrecision
    return {"plugins": kind("16-mixed", "cpu", GradScaler("cpu", init_scale=2.0**17, growth_interval=5))}


@pytest.mark.parametrize("arguments", [{}, {"gradient_clip_val": 0.2, "accumulate_grad_batches": 2}], ids=["", "clip"])
@pytest.mark.parametrize("name", NAMES)
def test_a_run(trainer, model_class, loader, lightning, name, arguments):
    def run(library):
        class Model(model_class(library)):
            def loss(self, batch):
                x, y = batch
                return super().loss(batch) + super().loss(
                    (-x, y)
                )  # a weight that is used twice has a sum of two gradients

            def validation_step(self, batch, batch_idx):
                self.log("val_loss", self.loss(batch))

            def test_step(self, batch, batch_idx):
                self.log("test_loss", self.loss(batch))

        lines = []
        chosen = mixed_float16(library, lightning) if name == "16-mixed" else {"precision": name}
        made = trainer(library=library, callbacks=recorder(library, lines), **chosen, **arguments)
        model = Model()
        torch.manual_seed(3)
        made.fit(model, loader, loader)
        metrics = {key: (value.item(), value.dtype) for key, value in made.callback_metrics.items()}
        tested = made.test(model, loader, verbose=False)
        predicted = [p.tolist() for p in made.predict(model, loader)]
        weights = {key: (value.tolist(), value.dtype) for key, value in model.state_dict().items()}
        scale = made.scaler.state_dict() if made.scaler is not None else None
        return made, [repr(part) for part in (*lines, metrics, tested, predicted, weights, scale)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other, expected = run(lightning)
    made, found = run(pl)
    for actual, wanted in zip(found, expected, strict=True):
        assert actual == wanted  # compared as texts, since nan is not equal to itself
    assert len(expected) > 30
    skipped = made.precision_plugin.skipped_steps if name == "16-mixed" else 0
    assert made.global_step == other.global_step - skipped  # Lightning counts those that were skipped, too
    assert (skipped > 0) is (name == "16-mixed")


def test_module_of_a_hook(trainer, model_class, loader, lightning):
    """In both frameworks ``configure_model`` makes layers in the dtype."""

    def run(library):
        class Late(model_class(library)):
            def configure_model(self):
                self.late = torch.nn.Linear(2, 2)
                self.made = (self.late.weight.dtype, torch.zeros(1).dtype)

        model = Late()
        trainer(library=library, precision="bf16-true").fit(model, loader)
        return model.made

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = run(lightning)
    assert run(pl) == expected == (torch.bfloat16, torch.bfloat16)

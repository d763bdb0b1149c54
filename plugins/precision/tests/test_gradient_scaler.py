"""Loss scaling in "16-mixed": compared with a hand-written loop, in manual optimisation, and with skipped steps."""

from __future__ import annotations

import pytest
import torch
from torch.amp import GradScaler

import leyden as pl
from leyden.plugins import MixedPrecision
from leyden.utilities import MisconfigurationException


def scaling(scale=1024.0, device="cpu", **arguments):
    return MixedPrecision("16-mixed", device, GradScaler(device, init_scale=scale, **arguments))


def weights(model):
    return [p.detach().cpu().clone() for p in model.parameters()]


def gradients(model):
    return [p.grad.detach().cpu().clone() for p in model.parameters()]


def assert_equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def train_by_hand(model, loader, device, dtype, optimizer, clip, every):
    """Train two epochs with PyTorch's recipe for mixed precision; return the scaler."""
    scaler = GradScaler(device, enabled=dtype is torch.float16)
    torch.manual_seed(3)
    model.to(device)
    optimizer = optimizer(model.parameters())
    for _ in range(2):
        for index, (x, y) in enumerate(loader):
            with torch.autocast(device, dtype):
                loss = torch.nn.functional.mse_loss(model.layers(x.to(device)), y.to(device))
            if index % every == 0:
                optimizer.zero_grad()
            scaler.scale(loss / every).backward()
            if (index + 1) % every == 0:
                scaler.unscale_(optimizer)
                if clip:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
                scaler.step(optimizer)
                scaler.update()
    return scaler


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "fused": lambda parameters: torch.optim.Adam(parameters, lr=0.01, fused=True),
}


@pytest.mark.parametrize(("clip", "every"), [(None, 1), (0.1, 1), (0.1, 2)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("name", "dtype"), [("16-mixed", torch.float16), ("bf16-mixed", torch.bfloat16)])
def test_as_by_hand(device, trainer, Model, loader, name, dtype, optimizer, clip, every):
    class Chosen(Model):
        def on_train_start(self):
            torch.manual_seed(3)

        def configure_optimizers(self):
            return OPTIMIZERS[optimizer](self.parameters())

    model, expected = Chosen(), Chosen()
    scaler = train_by_hand(expected, loader, device, dtype, OPTIMIZERS[optimizer], clip, every)
    made = trainer(device, precision=name, gradient_clip_val=clip, accumulate_grad_batches=every)
    made.fit(model, loader)
    assert_equal(weights(model), weights(expected))
    if made.scaler is not None:
        assert made.scaler.state_dict() == scaler.state_dict()
        assert made.precision_plugin.skipped_steps > 0  # the initial scale, 65536, is too large for these gradients


class Seen(pl.Callback):
    """Keeps the values that hooks see in one step."""

    def on_before_backward(self, trainer, pl_module, loss):
        self.loss = loss.item()

    def on_after_backward(self, trainer, pl_module):
        self.after_backward = gradients(pl_module)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.before_step = gradients(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.at_the_end, self.output = gradients(pl_module), outputs["loss"].item()


@pytest.mark.parametrize("fused", [False, True])
def test_hooks_see_gradients_scaled_back(device, trainer, Model, loader, fused):
    class Chosen(Model):
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01, fused=fused)

    seen = Seen()
    made = trainer(device, plugins=scaling(device=device), callbacks=seen, max_steps=1, gradient_clip_val=0.01)
    made.fit(Chosen(), loader)
    assert seen.loss == 1024 * seen.output
    assert_equal([g / 1024 for g in seen.after_backward], seen.before_step)
    norms = [torch.nn.utils.get_total_norm(g).item() for g in (seen.before_step, seen.at_the_end)]
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(0.01, rel=1e-3)


# -- skipped steps --------------------------------------------------------------------------------------------


def overflowing(Model, at):
    class Overflowing(Model):
        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            return loss * float("inf") if self.trainer.progress.total_batches - 1 in at else loss

    return Overflowing()


def test_skipped_steps_are_counted_and_told(device, trainer, Model, loader, caplog):
    class Watch(pl.Callback):
        changed = ()

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.before = weights(pl_module)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            same = all(map(torch.equal, self.before, weights(pl_module)))
            self.changed = (*self.changed, not same)

    watch = Watch()
    made = trainer(device, plugins=scaling(device=device), callbacks=watch, max_epochs=1)
    with caplog.at_level("INFO"):
        made.fit(overflowing(Model, {1, 2, 5}), loader)
        made.predict(Model(), loader)  # logs nothing, since no more steps were skipped
    assert watch.changed == (True, False, False, True, True, False)
    assert (made.global_step, made.precision_plugin.skipped_steps, made.scaler.get_scale()) == (3, 3, 128.0)
    assert caplog.text.count("3 optimizer steps were skipped") == 1
    assert "the loss scale is 128 now" in caplog.text


class Scheduled(pl.Callback):
    """Keeps the learning rate and the step after each batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append((trainer.optimizers[0].param_groups[0]["lr"], trainer.global_step))


@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_step_moves_neither_the_schedule_nor_global_step(trainer, Model, loader, fused):
    """In Lightning both move. That a fused optimizer skips is known on the host alone, without waiting."""

    class Chosen(type(overflowing(Model, {0, 3}))):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0, fused=fused)
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    scheduled = Scheduled()
    made = trainer(plugins=scaling(), callbacks=scheduled, max_epochs=1)
    made.fit(Chosen(), loader)
    assert scheduled.seen == [(1.0, 0), (0.5, 1), (0.25, 2), (0.25, 2), (0.125, 3), (0.0625, 4)]


def test_gradients_that_overflow_at_every_scale_end_the_run(trainer, Model, loader):
    class Broken(Model):
        def training_step(self, batch, batch_idx):
            return self.loss(batch) * float("nan")

    made = trainer(precision="16-mixed", max_steps=10, max_epochs=-1)
    with pytest.raises(RuntimeError, match="infinite or NaN at every loss scale, down to 0"):
        made.fit(Broken(), loader)
    assert made.global_step == 0


def test_an_optimizer_that_is_none_of_pytorchs_steps_too(trainer, Model, loader):
    class Plain:
        def __init__(self, parameters):
            self.param_groups = [{"params": list(parameters), "lr": 0.1}]

        def step(self):
            with torch.no_grad():
                for parameter in self.param_groups[0]["params"]:
                    parameter -= 0.1 * parameter.grad

        def zero_grad(self):
            for parameter in self.param_groups[0]["params"]:
                parameter.grad = None

        def state_dict(self):
            return {}

    class Chosen(type(overflowing(Model, {1}))):
        def configure_optimizers(self):
            return Plain(self.parameters())

    made = trainer(plugins=scaling(), max_epochs=1)
    made.fit(Chosen(), loader)
    assert (made.global_step, made.precision_plugin.skipped_steps) == (6, 1)


def test_nothing_is_told_where_nothing_was_skipped(trainer, Model, loader, caplog):
    made = trainer(plugins=scaling())
    with caplog.at_level("INFO"):
        made.fit(Model(), loader)
        made.predict(Model(), loader)
    assert made.precision_plugin.skipped_steps == 0
    assert "skipped" not in caplog.text


def test_a_scaler_that_is_turned_off_scales_nothing(trainer, Model, loader, tmp_path):
    seen = Seen()
    made = trainer(plugins=scaling(enabled=False), callbacks=seen)
    made.fit(Model(), loader)
    made.save_checkpoint(tmp_path / "it.ckpt")
    assert seen.loss == seen.output
    assert made.precision_plugin.skipped_steps == 0
    assert "MixedPrecision" not in torch.load(tmp_path / "it.ckpt", weights_only=True)


# -- batches without a loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "without"), [(1, {0, 3}), (2, {1}), (2, {0, 1}), (3, {0, 5})])
@pytest.mark.filterwarnings("ignore:training_step returned None")
def test_batches_without_a_loss(trainer, Model, loader, every, without):
    class Skipping(Model):
        def training_step(self, batch, batch_idx):
            return None if batch_idx in without else self.loss(batch)

    arguments = {"accumulate_grad_batches": every, "max_epochs": 1, "gradient_clip_val": 0.5}
    found = []
    for scale in (1.0, 1024.0):
        model = Skipping()
        torch.manual_seed(3)
        made = trainer(plugins=scaling(scale), **arguments)
        made.fit(model, loader)
        found.append(weights(model))
        assert made.precision_plugin.skipped_steps == 0
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:training_step returned None")
def test_a_batch_without_a_loss_whose_gradients_are_zeros(trainer, Model, loader):
    class Zeros(Model):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 3 else self.loss(batch)

        def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
            optimizer.zero_grad(set_to_none=False)

    made = trainer(plugins=scaling(), max_epochs=1)
    made.fit(Zeros(), loader)
    assert (made.global_step, made.precision_plugin.skipped_steps) == (6, 0)


# -- manual optimisation and closures -------------------------------------------------------------------------


class TwoOptimizers(pl.LightningModule):
    """A module that calls backward for both losses before either optimizer steps."""

    automatic_optimization = False

    def __init__(self, clip=None, overflow_at=None):
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.first, self.second = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
        self.clip, self.overflow_at, self.norms = clip, overflow_at, []

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizers = self.optimizers()
        for optimizer, layer in zip(optimizers, (self.first, self.second), strict=True):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(layer(x), y)
            overflows = layer is self.first and batch_idx == self.overflow_at
            self.manual_backward(loss * float("inf") if overflows else loss)
        for optimizer in optimizers:
            if self.clip:
                self.clip_gradients(optimizer, self.clip)
        for optimizer in optimizers:
            optimizer.step()

    def on_before_optimizer_step(self, optimizer):
        parameters = optimizer.param_groups[0]["params"]
        self.norms.append(torch.nn.utils.get_total_norm([p.grad for p in parameters]).item())

    def configure_optimizers(self):
        return [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (self.first, self.second)]


@pytest.mark.parametrize("clip", [None, 0.25])
def test_manual_optimisation(device, trainer, loader, clip):
    models = [TwoOptimizers(clip) for _ in range(2)]
    for model, precision in zip(models, (scaling(1.0, device), scaling(1024.0, device)), strict=True):
        made = trainer(device, plugins=precision)
        made.fit(model, loader)
        assert made.global_step == 24
    assert models[0].norms == pytest.approx(models[1].norms, rel=1e-3)
    assert (max(models[1].norms) < 0.2501) is (clip is not None)
    torch.testing.assert_close(weights(models[0]), weights(models[1]), rtol=0, atol=1e-4)


def test_an_optimizer_that_overflows_leaves_the_other_ones_gradients_as_they_are(trainer, loader):
    models = [TwoOptimizers(overflow_at=1), TwoOptimizers()]
    for model in models:
        made = trainer(plugins=scaling(), max_epochs=1)
        made.fit(model, loader)
        assert made.precision_plugin.skipped_steps == (model.overflow_at is not None)
    assert not torch.equal(models[0].first.weight, models[1].first.weight)
    torch.testing.assert_close(models[0].second.weight, models[1].second.weight, rtol=0, atol=1e-4)


def test_a_closure_in_manual_optimisation_returns_its_loss(trainer, Model, loader):
    class Closing(Model):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.returned = []

        def training_step(self, batch):
            optimizer = self.optimizers()

            def closure():
                optimizer.zero_grad()
                loss = self.loss(batch)
                self.manual_backward(loss)
                return loss

            self.returned.append(optimizer.step(closure))

    model = Closing()
    before = weights(model)
    made = trainer(plugins=scaling())
    made.fit(model, loader)
    assert made.global_step == 12
    assert all(0 < loss.item() < 10 for loss in model.returned)
    assert not torch.equal(before[-1], weights(model)[-1])


def test_an_own_optimizer_step(trainer, Model, loader):
    class Own(Model):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
            optimizer.step(closure=optimizer_closure)

    models = [Own(), Model()]
    for model in models:
        torch.manual_seed(3)
        trainer(precision="16-mixed").fit(model, loader)
    assert_equal(weights(models[0]), weights(models[1]))


def with_lbfgs(Model):
    class LBFGS(Model):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    return LBFGS()


def test_lbfgs_is_refused_where_gradients_are_scaled(trainer, Model, loader):
    with pytest.raises(MisconfigurationException, match="LBFGS can't be used with precision='16-mixed'"):
        trainer(precision="16-mixed").fit(with_lbfgs(Model), loader)


@pytest.mark.parametrize("name", ["bf16-mixed", "64-true"])
def test_lbfgs_trains_where_they_are_not(trainer, Model, loader, name):
    model = with_lbfgs(Model)
    before = weights(model)
    trainer(precision=name).fit(model, loader)
    assert not torch.equal(before[-1], weights(model)[-1].float())

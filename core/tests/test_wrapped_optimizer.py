"""What ``self.optimizers()`` returns behaves as the optimizer that it wraps, whatever is done with its ``step``."""

import copy
import functools
import pickle
from unittest import mock

import pytest
import torch
from torch.optim import LBFGS, SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, SequentialLR, StepLR

from leyden_testing.models import rows
from leyden_testing.training import quiet_trainer, same_weights, weights

from .by_hand import Model, compare

SCHEDULERS = {
    "step": lambda optimizer: StepLR(optimizer, 2),
    "one cycle": lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=20),
    "two": lambda o: SequentialLR(o, [StepLR(o, 1), CosineAnnealingLR(o, 3)], milestones=[2]),
    "plateau": lambda optimizer: ReduceLROnPlateau(optimizer, patience=0, threshold=1.0),
}


class Scheduled(Model):
    """Makes a scheduler on its wrapped optimizer, and steps it after each batch.

    Args:
        where: The hook in which it makes it.
        manual: Whether the model steps the optimizer.
        kind: Which scheduler.
    """

    def __init__(self, where="on_fit_start", manual=False, kind="step"):
        super().__init__()
        self.where, self.kind, self.scheduler = where, kind, None
        self.automatic_optimization = not manual

    def make(self, here):
        if here == self.where and self.scheduler is None:
            self.scheduler = SCHEDULERS[self.kind](self.optimizers())

    def on_fit_start(self):
        self.make("on_fit_start")

    def on_train_start(self):
        self.make("on_train_start")

    def training_step(self, batch, batch_idx):
        self.make("training_step")
        loss = self.loss(batch)
        if not self.automatic_optimization:
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()
        return loss

    def on_train_batch_end(self, *args):
        self.scheduler.step(*([1.0] if self.kind == "plateau" else []))


class Closing(Scheduled):
    """Its optimizer is stepped with a closure."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        optimizer.step(closure=optimizer_closure)


def by_hand(model, batches):
    optimizer = model.configure_optimizers()
    scheduler = SCHEDULERS[model.kind](optimizer)
    for batch in batches:
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
        scheduler.step(*([1.0] if model.kind == "plateau" else []))
    return weights(model)


@pytest.mark.parametrize(
    ("cls", "where", "manual"),
    [
        *(
            (Scheduled, where, m)
            for where in ("on_fit_start", "on_train_start", "training_step")
            for m in (False, True)
        ),
        (Closing, "on_train_start", False),  # PyTorch warns as well of a scheduler that is made within a closure
    ],
)
def test_a_scheduler_may_be_made_on_it_anywhere(tmp_path, cls, where, manual):
    """PyTorch's schedulers replace its ``step`` by one that calls it, and warn where that was never called."""
    trainer = compare(tmp_path, cls(where, manual), by_hand)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05 * 0.1**2)
    assert trainer.global_step == 5


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_any_scheduler_of_pytorch(tmp_path, kind):
    class Kind(Scheduled):
        def __init__(self):
            super().__init__(kind=kind)

    compare(tmp_path, Kind(), by_hand)


def test_lbfgs_and_a_scheduler(tmp_path):
    class Curved(Scheduled):
        def configure_optimizers(self):
            return LBFGS(self.parameters(), max_iter=2)

    trainer = quiet_trainer(tmp_path)
    trainer.fit(Curved(), rows(4))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize("manual", [False, True])
def test_what_replaces_step_is_stepped_until_it_is_taken_back(tmp_path, manual):
    """The loop in automatic optimisation steps it too, and the hooks of a step run once."""

    class Counting(Scheduled):
        def __init__(self):
            super().__init__(manual=manual)
            self.replaced = self.hooks = 0

        def on_fit_start(self):
            optimizer = self.optimizers()
            step = optimizer.step

            @functools.wraps(step)
            def counted(*args, **kwargs):
                self.replaced += 1
                return step(*args, **kwargs)

            self.patch = mock.patch.object(optimizer, "step", counted)
            self.patch.start()

        def on_before_optimizer_step(self, optimizer):
            self.hooks += 1

        def on_train_batch_end(self, outputs, batch, batch_idx):
            if batch_idx == 2:
                self.patch.stop()

    model = Counting()
    trainer = quiet_trainer(tmp_path)
    trainer.fit(model, rows(5))
    assert (model.replaced, model.hooks, trainer.global_step) == (3, 5, 5)


def test_other_attributes_are_the_optimizers(tmp_path):
    class Setting(Model):
        def on_train_start(self):
            optimizer = self.optimizers()
            optimizer.tag = "fast"
            assert optimizer.optimizer.tag == "fast"
            with mock.patch.object(optimizer, "zero_grad") as nothing:
                optimizer.optimizer.zero_grad()
            assert nothing.called
            optimizer.zero_grad()
            del optimizer.tag
            with pytest.raises(AttributeError):
                _ = optimizer.tag

    quiet_trainer(tmp_path).fit(Setting(), rows(1))


COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda value: pickle.loads(pickle.dumps(value))}


@pytest.mark.parametrize("way", COPIES)
def test_copies_are_optimizers_of_the_same_kind_and_state(tmp_path, way):
    """They step parameters and states of their own, except for ``copy``, which shares them as PyTorch's does."""

    class Copying(Scheduled):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if batch_idx != 1:
                return
            before, optimizer = weights(self), self.optimizers()
            twin = COPIES[way](optimizer)
            assert isinstance(twin, Optimizer)
            assert isinstance(twin, Adam)
            assert twin.state_dict().keys() == optimizer.state_dict().keys()
            twin.load_state_dict(optimizer.state_dict())
            for parameter in twin.param_groups[0]["params"]:
                parameter.grad = torch.ones_like(parameter)
            twin.step()
            shared = twin.param_groups[0]["params"][0] is optimizer.param_groups[0]["params"][0]
            assert shared == (way == "copy")
            assert same_weights(before, weights(self)) != shared

    quiet_trainer(tmp_path).fit(Copying(), rows(2))


def test_a_gradient_scaler_and_hooks_of_an_optimizer_take_it(tmp_path):
    class Scaled(Model):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.called = []

        def configure_optimizers(self):
            return SGD(self.parameters(), 0.1)

        def training_step(self, batch, batch_idx):
            optimizer, scaler = self.optimizers(), torch.amp.GradScaler("cpu")
            handle = optimizer.register_step_post_hook(lambda *args: self.called.append(batch_idx))
            optimizer.zero_grad()
            scaler.scale(self.loss(batch)).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            handle.remove()

    model, trainer = Scaled(), quiet_trainer(tmp_path)
    trainer.fit(model, rows(3))
    assert (model.called, trainer.global_step) == ([0, 1, 2], 3)

"""Manual optimisation: the model steps its optimizers itself."""

import contextlib
from types import SimpleNamespace

import pytest
from torch import nn
from torch.optim import SGD, Adam

import leyden as pl
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.models import rows
from leyden_testing.training import quiet_trainer

from .by_hand import Model, by_hand, compare


class Manual(Model):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


class Gan(pl.LightningModule):
    """Two networks and two optimizers, one of which steps every second batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = nn.Linear(4, 2), nn.Linear(2, 1)
        self.trained = []

    def training_step(self, batch, batch_idx):
        for optimizer, part in zip(self.optimizers(), (self.generator, self.discriminator), strict=True):
            if part is self.discriminator and batch_idx % 2:
                continue
            with self.toggled_optimizer(optimizer):
                self.trained.append([p.requires_grad for p in self.parameters()])
                loss = self.discriminator(self.generator(batch[0])).mean()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
        return {"loss": loss}

    def configure_optimizers(self):
        return SGD(self.generator.parameters(), 0.1), Adam(self.discriminator.parameters(), 0.1)


def test_manual_optimisation_is_the_loop_that_one_would_write(tmp_path):
    trainer = compare(tmp_path, Manual(), lambda m, b: by_hand(m, b, m.configure_optimizers()))
    assert trainer.global_step == 5


def test_two_optimizers_count_every_step_and_train_their_own_parameters(tmp_path):
    model = Gan()
    model.generator.bias.requires_grad_(False)
    trainer = quiet_trainer(tmp_path)
    trainer.fit(model, rows(4))
    assert trainer.global_step == 4 + 2
    assert model.trained[0] == [True, False, False, False]
    assert model.trained[1] == [False, False, True, True]
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]


def test_toggling_is_undone_after_an_error():
    model = Gan()
    run = SimpleNamespace(optimizers=list(model.configure_optimizers()))
    model.trainer = SimpleNamespace(run=run)
    with contextlib.suppress(ArithmeticError), model.toggled_optimizer(run.optimizers[0]):
        raise ArithmeticError
    assert all(p.requires_grad for p in model.parameters())


def test_optimizers_are_wrapped_unless_told_otherwise(tmp_path):
    class Both(Manual):
        def training_step(self, batch, batch_idx):
            wrapped, plain = self.optimizers(), self.optimizers(use_pl_optimizer=False)
            assert isinstance(wrapped, Adam)
            assert wrapped.optimizer is plain
            assert wrapped.param_groups is plain.param_groups
            self.manual_backward(self.loss(batch))
            (wrapped if batch_idx else plain).step()

    trainer = quiet_trainer(tmp_path)
    trainer.fit(Both(), rows(3))
    assert trainer.global_step == 2  # a step of the plain one is nobody's to count


def test_clipping_by_hand(tmp_path):
    class Clipped(Manual):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")
            optimizer.step()

    def clip(parameters):
        nn.utils.clip_grad_norm_(parameters, 0.1)

    compare(tmp_path, Clipped(), lambda m, b: by_hand(m, b, m.configure_optimizers(), clip=clip))


@pytest.mark.parametrize("option", [{"gradient_clip_val": 0.5}, {"accumulate_grad_batches": 2}], ids=str)
def test_what_has_no_meaning_in_manual_optimisation_is_refused(tmp_path, option):
    with pytest.raises(MisconfigurationException, match=f"{next(iter(option))}.*manual"):
        quiet_trainer(tmp_path, **option).fit(Manual(), rows(1))


def test_manual_backward_in_automatic_optimisation_is_refused(tmp_path):
    model = Model()
    model.training_step = lambda batch, batch_idx: model.manual_backward(model.loss(batch))
    with pytest.raises(MisconfigurationException, match=r"manual_backward.*automatic_optimization = False"):
        quiet_trainer(tmp_path).fit(model, rows(1))


def test_a_closure_in_manual_optimisation(tmp_path):
    class Closed(Manual):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()

            def closure():
                loss = self.loss(batch)
                optimizer.zero_grad()
                self.manual_backward(loss)
                return loss

            optimizer.step(closure=closure)

    trainer = compare(tmp_path, Closed(), lambda m, b: by_hand(m, b, m.configure_optimizers()))
    assert trainer.global_step == 5

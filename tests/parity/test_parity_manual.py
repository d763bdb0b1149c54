"""Manual optimisation: several optimizers, toggling, accumulation, schedulers, counters."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR

from leyden_testing.models import rows

from .parity_harness import parity


def make_gan(lab, **flags):
    class GAN(lab.Model):
        """A generator and a discriminator of two lines each, with an optimizer and a schedule each."""

        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.discriminator = nn.Linear(3, 4), nn.Linear(4, 1)

        def judge(self, x, real):
            target = torch.full((len(x), 1), float(real))
            return nn.functional.binary_cross_entropy_with_logits(self.discriminator(x), target)

        def training_step(self, batch, batch_idx):
            x, _ = batch
            for_generator, for_discriminator = self.optimizers(**flags)
            noise = torch.randn(len(x), 3)
            self.toggle_optimizer(for_generator)
            lab.note("toggled", [p.requires_grad for p in self.parameters()])
            loss = self.judge(self.generator(noise), real=True)
            for_generator.zero_grad()
            self.manual_backward(loss)
            for_generator.step()
            self.untoggle_optimizer(for_generator)
            self.log("g_loss", loss, prog_bar=True)
            with self.toggled_optimizer(for_discriminator):
                loss = self.judge(x, real=True) + self.judge(self.generator(noise).detach(), real=False)
                for_discriminator.zero_grad()
                self.manual_backward(loss)
                for_discriminator.step()
            lab.note("untoggled", [p.requires_grad for p in self.parameters()])
            self.log("d_loss", loss, on_step=True, on_epoch=True)

        def on_train_epoch_end(self):
            for scheduler in self.lr_schedulers():
                scheduler.step()

        def configure_optimizers(self):
            one = Adam(self.generator.parameters(), lr=0.01)
            two = SGD([*self.discriminator.parameters()], lr=0.1)
            return [one, two], [StepLR(one, 1), StepLR(two, 1)]

    return GAN


@parity
@pytest.mark.parametrize("flags", [{}, {"use_pl_optimizer": False}])
def test_gan(pl, lab, flags):
    lab.trainer().fit(lab.model(make_gan(lab, **flags)), rows(3))


@parity
def test_gan_as_a_tuple_of_dicts(pl, lab):
    class GAN(make_gan(lab)):
        def configure_optimizers(self):
            optimizers, schedulers = super().configure_optimizers()
            pairs = zip(optimizers, schedulers, strict=True)
            return tuple({"optimizer": o, "lr_scheduler": {"scheduler": s, "interval": "step"}} for o, s in pairs)

    lab.trainer().fit(lab.model(GAN), rows(3))


@parity
def test_gan_stops_at_max_steps_and_validates_on_the_way(pl, lab):
    """Every step of every optimizer counts towards ``max_steps``."""
    lab.trainer(max_epochs=5, max_steps=8, val_check_interval=2).fit(lab.model(make_gan(lab)), rows(5), rows(1))


def make_manual(lab):
    class Manual(lab.Model):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    return Manual


@parity
def test_accumulation_and_clipping_by_hand(pl, lab):
    class Model(make_manual(lab)):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            loss = self.loss(batch) / 2
            self.manual_backward(loss)
            if batch_idx % 2 == 1 or self.trainer.is_last_batch:
                self.clip_gradients(optimizer, gradient_clip_val=0.2, gradient_clip_algorithm="norm")
                optimizer.step()
                optimizer.zero_grad()
            return loss

    lab.trainer().fit(lab.model(Model), rows(5))


@parity
def test_step_with_a_closure_and_one_scheduler(pl, lab):
    class Model(make_manual(lab)):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()

            def closure():
                loss = self.loss(batch)
                optimizer.zero_grad()
                self.manual_backward(loss)
                return loss

            lab.note("returned", optimizer.step(closure=closure))
            self.lr_schedulers().step()
            return {"loss": torch.zeros(1), "other": 1}

        def configure_optimizers(self):
            optimizer = SGD(self.parameters(), lr=0.1)
            return [optimizer], [StepLR(optimizer, 1)]

    lab.trainer().fit(lab.model(Model), rows(3))


@parity
def test_lbfgs_by_hand(pl, lab):
    class Model(make_manual(lab)):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()

            def closure():
                optimizer.zero_grad()
                loss = self.loss(batch)
                self.manual_backward(loss)
                return loss

            optimizer.step(closure)

        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=2)

    lab.trainer().fit(lab.model(Model), rows(2))


@parity
def test_without_a_scheduler_there_is_none(pl, lab):
    class Model(make_manual(lab)):
        def training_step(self, batch, batch_idx):
            lab.note("schedulers", self.lr_schedulers())
            lab.note("rate", self.optimizers().param_groups[0]["lr"])
            optimizer = self.optimizers()
            optimizer.zero_grad(set_to_none=True)
            self.manual_backward(self.loss(batch))
            optimizer.step()

    lab.trainer(max_epochs=1).fit(lab.model(Model), rows(2))


@parity
@pytest.mark.parametrize("options", [{"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}])
def test_what_the_trainer_cannot_do_in_manual_mode(pl, lab, options):
    with lab.refuses("MisconfigurationException"):
        lab.trainer(**options).fit(lab.model(make_manual(lab)), rows(2))


@parity
def test_manual_backward_in_automatic_mode(pl, lab):
    class Model(lab.Model):
        def training_step(self, batch, batch_idx):
            self.manual_backward(self.loss(batch))

    with lab.raises("MisconfigurationException"):
        lab.trainer().fit(lab.model(Model), rows(2))

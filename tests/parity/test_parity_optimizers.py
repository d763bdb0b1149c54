"""Automatic optimisation: forms of ``configure_optimizers``, schedulers, accumulation, clipping, override points."""

import pytest
import torch
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, ReduceLROnPlateau, StepLR

from leyden_testing.models import rows

from .parity_harness import parity


def adam_and_decay(model):
    optimizer = Adam(model.parameters(), lr=0.1)
    return optimizer, StepLR(optimizer, 1, gamma=0.5)


def plateau(model, **config):
    optimizer = SGD(model.parameters(), lr=0.1)
    scheduler = ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **config}}


def scheduled(**config):
    def form(model):
        optimizer, scheduler = adam_and_decay(model)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **config}}

    return form


def two_schedulers(model):
    optimizer, scheduler = adam_and_decay(model)
    return [optimizer], [scheduler, {"scheduler": ExponentialLR(optimizer, 0.9), "interval": "step"}]


FORMS = {
    "one optimizer": lambda model: Adam(model.parameters(), lr=0.1),
    "list of one": lambda model: [Adam(model.parameters(), lr=0.1)],
    "tuple of one": lambda model: (Adam(model.parameters(), lr=0.1),),
    "two lists": lambda model: tuple([part] for part in adam_and_decay(model)),
    "two lists, one empty": lambda model: ([Adam(model.parameters(), lr=0.1)], []),
    "two schedulers of one optimizer": two_schedulers,
    "dict": lambda model: {"optimizer": Adam(model.parameters(), lr=0.1)},
    "dict with scheduler": lambda model: dict(zip(("optimizer", "lr_scheduler"), adam_and_decay(model), strict=True)),
    "list of a dict": lambda model: [dict(zip(("optimizer", "lr_scheduler"), adam_and_decay(model), strict=True))],
    "per step": scheduled(interval="step"),
    "every second step": scheduled(interval="step", frequency=2),
    "every second epoch": scheduled(interval="epoch", frequency=2),
    "named": scheduled(name="decay"),
    "plateau": lambda model: plateau(model, monitor="val_loss"),
    "plateau on a training metric": lambda model: plateau(model, monitor="train_loss"),
    "plateau per step": lambda model: plateau(model, monitor="train_loss", interval="step"),
    "plateau, every second epoch": lambda model: plateau(model, monitor="val_loss", frequency=2),
    "plateau on a metric that is missing, not strict": lambda model: plateau(model, monitor="none", strict=False),
}


@parity
@pytest.mark.parametrize("form", FORMS)
def test_form_of_configure_optimizers(pl, lab, form):
    class Model(lab.Model):
        def configure_optimizers(self):
            return FORMS[form](self)

        def on_train_batch_end(self, outputs, batch, batch_idx):
            lab.note("rates", [o.param_groups[0]["lr"] for o in self.trainer.optimizers])

    trainer, model = lab.trainer(max_epochs=3), lab.model(Model)
    trainer.fit(model, rows(3), rows(1))
    lab.note("optimizers", [type(optimizer).__name__ for optimizer in trainer.optimizers])
    for config in trainer.lr_scheduler_configs:
        lab.note("scheduler", [type(config.scheduler).__name__, config.interval, config.frequency, config.monitor])
        lab.note("more", [config.name, config.reduce_on_plateau, config.strict])


@parity
def test_no_optimizer(pl, lab):
    lab.differs("_MockOptimizer", "hooks of an optimizer are not called with one that does not exist")

    class Model(lab.Model):
        def configure_optimizers(self):
            return None

    lab.trainer().fit(lab.model(Model), rows(3), rows(1))


MISTAKES = {
    "plateau without a monitor": lambda model: plateau(model),
    "plateau alone": lambda model: {
        "optimizer": (optimizer := SGD(model.parameters(), lr=0.1)),
        "lr_scheduler": ReduceLROnPlateau(optimizer),
    },
    "plateau on a metric that is missing": lambda model: plateau(model, monitor="none"),
    "dict of a scheduler without one": lambda model: (
        {"optimizer": SGD(model.parameters(), lr=0.1), "lr_scheduler": {"interval": "step"}}
    ),
    "unknown interval": scheduled(interval="hour"),
    "neither": lambda model: 7,
    "two optimizers": lambda model: [SGD(model.parameters(), lr=0.1), SGD(model.parameters(), lr=0.1)],
}


@parity
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_in_configure_optimizers(pl, lab, mistake):
    class Model(lab.Model):
        def configure_optimizers(self):
            return MISTAKES[mistake](self)

    with lab.refuses("RuntimeError" if mistake == "two optimizers" else "MisconfigurationException"):
        lab.trainer().fit(lab.model(Model), rows(2), rows(1))


@parity
@pytest.mark.parametrize(("value", "algorithm"), [(0.3, "norm"), (0.1, "value"), (0.3, None), (0, "norm")])
def test_clipping(pl, lab, value, algorithm):
    class Model(lab.Model):
        def on_before_optimizer_step(self, optimizer):
            lab.note("before clipping", self.layer.weight.grad)

    trainer = lab.trainer(gradient_clip_val=value, gradient_clip_algorithm=algorithm, accumulate_grad_batches=2)
    trainer.fit(lab.model(Model), rows(4))


@parity
def test_own_clipping(pl, lab):
    class Model(lab.Model):
        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            lab.note("asked for", [gradient_clip_val, gradient_clip_algorithm])
            if self.current_epoch > 0:
                self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    lab.trainer(gradient_clip_val=0.3).fit(lab.model(Model), rows(3))


@parity
def test_own_clipping_without_the_trainers(pl, lab):
    class Model(lab.Model):
        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="value")

    lab.trainer().fit(lab.model(Model), rows(3))


@parity
def test_lbfgs_steps_with_a_closure(pl, lab):
    class Model(lab.Model):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    lab.trainer().fit(lab.model(Model), rows(3))


@parity
def test_own_optimizer_step_every_second_batch(pl, lab):
    class Model(lab.Model):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            if batch_idx % 2 == 0:
                optimizer.step(closure=optimizer_closure)
            else:
                optimizer_closure()

    lab.trainer().fit(lab.model(Model), rows(5))


@parity
def test_own_optimizer_step_with_warm_up(pl, lab):
    class Model(lab.Model):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            optimizer.step(closure=optimizer_closure)
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * min(1.0, (self.trainer.global_step + 1) / 4)

    lab.trainer().fit(lab.model(Model), rows(3))


@parity
def test_own_optimizer_step_without_the_closure_is_refused(pl, lab):
    class Model(lab.Model):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            """Forgets the closure."""

    with lab.refuses("MisconfigurationException"):
        lab.trainer().fit(lab.model(Model), rows(2))


@parity
def test_own_zero_grad_and_backward(pl, lab):
    class Model(lab.Model):
        def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
            lab.note("zero_grad", [epoch, batch_idx])
            optimizer.zero_grad(set_to_none=False)

        def backward(self, loss):
            (loss * 2).backward()

    lab.trainer(accumulate_grad_batches=2).fit(lab.model(Model), rows(4))


@parity
def test_own_scheduler_step(pl, lab):
    class Model(lab.Model):
        def configure_optimizers(self):
            return scheduled(interval="step")(self)

        def lr_scheduler_step(self, scheduler, metric):
            lab.note("rate", scheduler.get_last_lr())
            scheduler.step()

    lab.trainer().fit(lab.model(Model), rows(3))


@parity
def test_one_cycle_over_the_estimated_steps(pl, lab):
    class Model(lab.Model):
        def configure_optimizers(self):
            optimizer = SGD(self.parameters(), lr=0.1)
            steps = int(self.trainer.estimated_stepping_batches)
            lab.note("estimated", steps)
            schedule = OneCycleLR(optimizer, max_lr=0.5, total_steps=steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    lab.trainer(accumulate_grad_batches=2).fit(lab.model(Model), rows(6))


@parity
@pytest.mark.parametrize("options", [{"max_steps": 4}, {"max_epochs": -1}, {"max_epochs": 3, "limit_train_batches": 2}])
def test_estimated_stepping_batches(pl, lab, options):
    class Model(lab.Model):
        def on_fit_start(self):
            lab.note("estimated", self.trainer.estimated_stepping_batches)
            self.trainer.should_stop = True

    lab.trainer(**options).fit(lab.model(Model), rows(5))


@parity
def test_scheduler_per_step_with_accumulation(pl, lab):
    class Model(lab.Model):
        def configure_optimizers(self):
            return scheduled(interval="step")(self)

    monitor = pl.callbacks.LearningRateMonitor(logging_interval="step")
    lab.trainer(accumulate_grad_batches=2, callbacks=[monitor]).fit(lab.model(Model), rows(6))


@parity
@pytest.mark.parametrize("interval", [None, "epoch"])
def test_learning_rate_monitor(pl, lab, interval):
    class Model(lab.Model):
        def configure_optimizers(self):
            return two_schedulers(self)

    monitor = pl.callbacks.LearningRateMonitor(logging_interval=interval, log_momentum=True)
    lab.trainer(callbacks=[monitor]).fit(lab.model(Model), rows(3))


@parity
@pytest.mark.parametrize("returned", ["none", "dict", "sometimes none", "with extra"])
def test_what_training_step_returns(pl, lab, returned):
    class Model(lab.Model):
        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            if returned == "none" or (returned == "sometimes none" and batch_idx == 1):
                return None
            return {"loss": loss, "extra": torch.ones(1)} if returned == "with extra" else {"loss": loss}

    lab.trainer(accumulate_grad_batches=2).fit(lab.model(Model), rows(4), rows(1))


@parity
@pytest.mark.parametrize("returned", [{"no": 1}, "text", 3.0, [1, 2]])
def test_training_step_returns_nonsense(pl, lab, returned):
    class Model(lab.Model):
        def training_step(self, batch, batch_idx):
            return returned

    with lab.refuses("MisconfigurationException"):
        lab.trainer().fit(lab.model(Model), rows(2))


@parity
def test_detect_anomaly(pl, lab):
    class Model(lab.Model):
        def training_step(self, batch, batch_idx):
            return self.loss(batch) * torch.sqrt(self.layer.weight.sum() * 0 - 1)

    with lab.raises("RuntimeError"):
        lab.trainer(detect_anomaly=True).fit(lab.model(Model), rows(2))


@parity
def test_a_callback_assigns_other_optimizers(pl, lab):
    class Change(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.optimizers = [Adam(pl_module.parameters(), lr=0.5)]

    trainer = lab.trainer(max_epochs=3, callbacks=[Change()])
    trainer.fit(lab.model(), rows(3))
    lab.note("optimizer", [type(optimizer).__name__ for optimizer in trainer.optimizers])

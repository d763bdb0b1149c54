"""Learning-rate schedulers: when they step, what they are given, and what is refused."""

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, ReduceLROnPlateau, StepLR

import leyden as pl
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.models import LoggingModel, ValidatedModel, rows
from leyden_testing.training import quiet_trainer


class Counting:
    """A scheduler of nobody's class that counts its steps and keeps what it is given."""

    def __init__(self, optimizer):
        self.optimizer, self.given = optimizer, []

    def step(self, metric=None):
        self.given.append(metric)

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state_dict):
        self.given = state_dict["given"]


def scheduled(make, base=LoggingModel, **methods):
    """A model whose scheduler, or schedulers, ``make`` makes of its optimizer."""

    class Model(base):
        def configure_optimizers(self):
            self.optimizer = SGD(self.parameters(), lr=1.0)
            made = make(self.optimizer)
            self.schedulers = made if isinstance(made, list) else [made]
            return [self.optimizer], self.schedulers

    return type("Model", (Model,), methods)()


def steps_of(tmp_path, config, batches=4, base=LoggingModel, **options):
    """How often a scheduler with this configuration steps in a fit."""
    model = scheduled(lambda optimizer: {"scheduler": Counting(optimizer), **config}, base)
    quiet_trainer(tmp_path, **options).fit(model, rows(batches), rows(1) if base is ValidatedModel else None)
    return len(model.schedulers[0]["scheduler"].given)


@pytest.mark.parametrize(
    ("config", "options", "steps"),
    [
        ({}, {"max_epochs": 3}, 3),
        ({"interval": "epoch", "frequency": 2}, {"max_epochs": 5}, 2),
        ({"interval": "step"}, {"max_epochs": 2}, 8),
        ({"interval": "step", "frequency": 3}, {"max_epochs": 1}, 1),
        ({"interval": "step"}, {"max_epochs": 2, "accumulate_grad_batches": 2}, 4),
        ({"interval": "step"}, {"max_epochs": 1, "accumulate_grad_batches": 3}, 2),
        ({"interval": "step"}, {"max_steps": 3, "max_epochs": -1}, 3),
        ({"interval": "epoch"}, {"max_epochs": 2, "limit_train_batches": 2}, 2),
    ],
    ids=str,
)
def test_when_a_scheduler_steps(tmp_path, config, options, steps):
    assert steps_of(tmp_path, config, **options) == steps


def test_a_scheduler_without_a_dict_steps_by_epoch(tmp_path):
    model = scheduled(lambda optimizer: ExponentialLR(optimizer, 0.5))
    quiet_trainer(tmp_path, max_epochs=3).fit(model, rows(2))
    assert model.optimizer.param_groups[0]["lr"] == 0.125


def test_several_schedulers_of_one_optimizer(tmp_path):
    model = scheduled(
        lambda optimizer: [StepLR(optimizer, 1, gamma=0.5), {"scheduler": Counting(optimizer), "interval": "step"}]
    )
    quiet_trainer(tmp_path, max_epochs=2).fit(model, rows(3))
    assert model.optimizer.param_groups[0]["lr"] == 0.25
    assert len(model.schedulers[1]["scheduler"].given) == 6


def test_the_rate_of_each_batch_under_one_cycle(tmp_path):
    """``estimated_stepping_batches`` is what the scheduler has to know."""
    rates = []

    def configure_optimizers(self):
        optimizer = SGD(self.parameters(), lr=0.1)
        total = self.trainer.estimated_stepping_batches
        return [optimizer], [{"scheduler": OneCycleLR(optimizer, 1.0, total_steps=total), "interval": "step"}]

    def training_step(self, batch, batch_idx):
        rates.append(self.optimizers().param_groups[0]["lr"])
        return self.loss(batch)

    model = type(
        "Model", (LoggingModel,), {"configure_optimizers": configure_optimizers, "training_step": training_step}
    )()
    quiet_trainer(tmp_path, max_epochs=2).fit(model, rows(5))
    optimizer = SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    reference, expected = OneCycleLR(optimizer, 1.0, total_steps=10), []
    for i in range(10):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if i < 9:
            reference.step()
    assert rates == expected


@pytest.mark.parametrize(
    ("options", "batches", "steps"),
    [
        ({"max_epochs": 3}, 4, 12),
        ({"max_epochs": 3, "accumulate_grad_batches": 3}, 4, 6),
        ({"max_epochs": 3, "max_steps": 5}, 4, 5),
        ({"max_epochs": -1, "max_steps": 7}, 4, 7),
        ({"max_epochs": -1}, 4, float("inf")),
        ({"max_epochs": 2, "limit_train_batches": 3}, 4, 6),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, 4, 4),
    ],
    ids=str,
)
def test_estimated_stepping_batches(tmp_path, options, batches, steps):
    class Model(LoggingModel):
        def on_fit_start(self):
            self.estimate = self.trainer.estimated_stepping_batches
            self.trainer.should_stop = True

    model = Model()
    quiet_trainer(tmp_path, **options).fit(model, rows(batches))
    assert model.estimate == steps


# -- plateaus -----------------------------------------------------------------------------------------------


def plateau(optimizer, **config):
    return {"scheduler": ReduceLROnPlateau(optimizer, patience=0, factor=0.5), **config}


def test_a_plateau_of_a_validation_metric(tmp_path):
    def validation_step(self, batch, batch_idx):
        self.log("val", [3.0, 2.0, 2.0, 1.0, 5.0][self.current_epoch])

    model = scheduled(lambda o: plateau(o, monitor="val"), ValidatedModel, validation_step=validation_step)
    quiet_trainer(tmp_path, max_epochs=5, num_sanity_val_steps=0).fit(model, rows(2), rows(1))
    assert model.optimizer.param_groups[0]["lr"] == 0.25


def test_a_plateau_of_a_training_metric_by_epoch_and_by_step(tmp_path):
    given = {}

    class Model(LoggingModel):
        def training_step(self, batch, batch_idx):
            self.log("value", 10.0 * self.current_epoch + batch_idx, on_step=True, on_epoch=True)
            return self.loss(batch)

        def configure_optimizers(self):
            optimizer = SGD(self.parameters(), lr=1.0)
            configs = []
            for interval, monitor in (("epoch", "value_epoch"), ("step", "value_step")):
                given[interval] = Counting(optimizer)
                configs.append(
                    {"scheduler": given[interval], "reduce_on_plateau": True, "interval": interval, "monitor": monitor}
                )
            return [optimizer], configs

    quiet_trainer(tmp_path, max_epochs=2).fit(Model(), rows(3))
    assert [float(v) for v in given["epoch"].given] == [1.0, 11.0]
    assert [float(v) for v in given["step"].given] == [0.0, 1.0, 2.0, 10.0, 11.0, 12.0]


def test_monitor_beside_the_scheduler_of_a_dict(tmp_path):
    class Model(LoggingModel):
        def configure_optimizers(self):
            optimizer = SGD(self.parameters(), lr=1.0)
            scheduler = ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "train_loss"}

    trainer = quiet_trainer(tmp_path)
    trainer.fit(Model(), rows(1))
    config = trainer.lr_scheduler_configs[0]
    assert (config.monitor, config.reduce_on_plateau) == ("train_loss", True)
    assert config.scheduler.best < float("inf")


def test_a_plateau_without_monitor_is_refused_with_the_mend(tmp_path):
    model = scheduled(lambda optimizer: ReduceLROnPlateau(optimizer))
    with pytest.raises(MisconfigurationException, match=r'"monitor": "val_loss"'):
        quiet_trainer(tmp_path).fit(model, rows(1))


def test_a_metric_that_was_not_logged(tmp_path):
    model = scheduled(lambda o: plateau(o, monitor="train_los"))
    with pytest.raises(
        MisconfigurationException, match=r"'train_los', which was not logged.*did you mean 'train_loss'"
    ):
        quiet_trainer(tmp_path).fit(model, rows(1))
    lenient = scheduled(lambda o: plateau(o, monitor="train_los", strict=False))
    with pytest.warns(RuntimeWarning, match="'train_los', which was not logged"):
        quiet_trainer(tmp_path).fit(lenient, rows(1))
    assert lenient.optimizer.param_groups[0]["lr"] == 1.0


# -- refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"interval": "batch"}, "interval is 'batch'"),
        ({"frequency": 0}, "frequency is 0"),
        ({"frequency": 1.5}, r"frequency is 1\.5"),
    ],
    ids=str,
)
def test_wrong_configurations_are_refused(tmp_path, config, words):
    with pytest.raises(MisconfigurationException, match=words):
        steps_of(tmp_path, config)


def test_unknown_keys_are_named(tmp_path):
    with pytest.warns(UserWarning, match="unknown keys: intervall"):
        steps_of(tmp_path, {"intervall": "step"})


def test_a_scheduler_of_another_optimizer_is_refused(tmp_path):
    model = scheduled(lambda optimizer: StepLR(SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1), 1))
    with pytest.raises(MisconfigurationException, match="did not return"):
        quiet_trainer(tmp_path).fit(model, rows(1))


# -- by hand ------------------------------------------------------------------------------------------------


def test_lr_scheduler_step_can_be_overridden(tmp_path):
    calls = []

    def lr_scheduler_step(self, scheduler, metric):
        calls.append((type(scheduler).__name__, metric))
        scheduler.step()

    model = scheduled(lambda o: StepLR(o, 1), lr_scheduler_step=lr_scheduler_step)
    quiet_trainer(tmp_path, max_epochs=2).fit(model, rows(1))
    assert calls == [("StepLR", None)] * 2


def test_manual_optimisation_steps_its_schedulers_itself(tmp_path):
    class Model(LoggingModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.optimizers().step()
            if batch_idx == 0:
                self.lr_schedulers().step()

        def configure_optimizers(self):
            optimizer = SGD(self.parameters(), lr=1.0)
            return [optimizer], [StepLR(optimizer, 1, gamma=0.5)]

    trainer = quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(Model(), rows(3))
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize(("count", "kind"), [(0, type(None)), (1, StepLR), (2, list)])
def test_lr_schedulers(tmp_path, count, kind):
    class Look(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            self.found = pl_module.lr_schedulers()

    look = Look()
    model = scheduled(lambda o: [StepLR(o, 1) for _ in range(count)])
    quiet_trainer(tmp_path, callbacks=[look]).fit(model, rows(1))
    assert type(look.found) is kind

"""Steps count what they did: groups of an accumulation, steps that are skipped, learning rates and metrics."""

import pytest
import torch
from torch.optim import LBFGS, SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

import leyden as pl
from leyden.plugins import Precision
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.models import Given, LoggingModel, RecordingLogger, Unsized, ValidatedModel, rows
from leyden_testing.training import quiet_trainer, same_weights, weights

# -- groups of an accumulation --------------------------------------------------------------------------------


class Ones(pl.LightningModule):
    """Every batch has the gradient 1, so that a step's is 1, however many batches it has."""

    def __init__(self):
        super().__init__()
        self.weight, self.gradients = torch.nn.Parameter(torch.zeros(1)), []

    def training_step(self, batch, batch_idx):
        return (self.weight * batch).mean()

    def on_before_optimizer_step(self, optimizer):
        self.gradients.append(float(self.weight.grad))

    def configure_optimizers(self):
        return SGD([self.weight], 0.125)


class OwnStep(Ones):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer.step(closure=optimizer_closure)


@pytest.mark.parametrize("model", [Ones, OwnStep])
@pytest.mark.parametrize(
    ("wrap", "limit"), [(Given, None), (Unsized, None), (Given, 5), (Unsized, 5), (Unsized, 99)], ids=str
)
@pytest.mark.parametrize(("batches", "every"), [(6, 4), (2, 4), (5, 2), (3, 1)])
def test_a_step_has_the_mean_gradient_of_the_batches_that_it_has(tmp_path, model, wrap, limit, batches, every):
    """In Lightning the last step of an epoch is divided by ``accumulate_grad_batches``, however few batches it has."""
    trained = model()
    options = {"accumulate_grad_batches": every, "limit_train_batches": limit, "max_epochs": 2}
    trainer = quiet_trainer(tmp_path, **options)
    trainer.fit(trained, wrap(*[torch.ones(1)] * batches))
    assert trained.gradients == [1.0] * trainer.global_step
    assert trainer.global_step == 2 * -(-min(batches, limit or 99) // every)


@pytest.mark.parametrize("wrap", [Given, Unsized])
def test_a_resume_within_the_last_group_is_exact(tmp_path, wrap):
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.save_checkpoint(tmp_path / f"{batch_idx}.ckpt")

    data, options = wrap(*rows(5)), {"accumulate_grad_batches": 3}
    whole = LoggingModel()
    quiet_trainer(tmp_path, callbacks=[Save()], **options).fit(whole, data)
    resumed = LoggingModel()
    quiet_trainer(tmp_path, **options).fit(resumed, data, ckpt_path=tmp_path / "3.ckpt")
    assert same_weights(resumed, whole)


class Quasi(LoggingModel):
    def configure_optimizers(self):
        return LBFGS(self.parameters(), max_iter=4)


SEVERAL = "evaluates the loss several times in a step, and with accumulate_grad_batches=2"


def test_lbfgs_with_accumulation_is_refused_before_any_batch(tmp_path):
    """Of a group only the last batch is there when LBFGS evaluates again; in Lightning it diverges."""
    with pytest.raises(MisconfigurationException, match=f"LBFGS {SEVERAL}.*use larger batches"):
        quiet_trainer(tmp_path, accumulate_grad_batches=2).fit(Quasi(), rows(4))


def test_so_is_accumulation_that_begins_later_and_any_second_evaluation(tmp_path):
    class Later(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            trainer.accumulate_grad_batches = 1 + trainer.current_epoch

    class Twice(LoggingModel):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            optimizer_closure()
            optimizer.step(closure=optimizer_closure)

    for model in (Quasi(), Twice()):
        trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=[Later()])
        with pytest.raises(MisconfigurationException, match=SEVERAL):
            trainer.fit(model, rows(4))
        assert trainer.current_epoch == 1
        assert trainer.global_step == 4


# -- steps that the precision skips ---------------------------------------------------------------------------


class Skipping(Precision):
    """Skips a step whose gradients are infinite, as loss scaling does."""

    precision = "skipping"

    def optimizer_step(self, optimizer, closure=None, **arguments):
        result = closure() if closure is not None else None
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.has_skipped = not all(bool(gradient.isfinite().all()) for gradient in gradients)
        if not self.has_skipped:
            optimizer.step(**arguments)
        return result


class Overflowing(LoggingModel):
    """Overflows in the batches ``at``, counted over all epochs, and keeps the rate and the step of every batch."""

    def __init__(self, at=(), manual=False):
        super().__init__()
        self.at, self.seen, self.automatic_optimization = at, [], not manual

    def training_step(self, batch, batch_idx):
        self.log("batch", float(self.trainer.progress.total_batches))
        loss = self.loss(batch) * (float("inf") if self.trainer.progress.total_batches - 1 in self.at else 1.0)
        if self.automatic_optimization:
            return loss
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.seen.append((self.trainer.optimizers[0].param_groups[0]["lr"], self.trainer.global_step))

    def configure_optimizers(self):
        optimizer = SGD(self.parameters(), 1.0)
        return [optimizer], [{"scheduler": StepLR(optimizer, 1, 0.5), "interval": "step"}]


def test_a_skipped_step_moves_neither_schedule_nor_counters_and_logs_nothing(tmp_path):
    """In Lightning it moves them all."""
    logger, model = RecordingLogger(), Overflowing(at={1})
    trainer = quiet_trainer(tmp_path, plugins=[Skipping()], logger=logger, log_every_n_steps=1)
    trainer.fit(model, rows(4))
    assert model.seen == [(0.5, 1), (0.5, 1), (0.25, 2), (0.125, 3)]
    assert logger.values("batch") == [(0, 1.0), (1, 3.0), (2, 4.0)]
    assert all(bool(weight.isfinite().all()) for weight in weights(model).values())


@pytest.mark.parametrize(("every", "steps"), [(2, [0, 1, 1, 1, 1, 2]), (4, [0, 0, 0, 0, 0, 1])])
def test_one_batch_that_overflows_skips_the_step_of_its_group(tmp_path, every, steps):
    model = Overflowing(at={2})
    quiet_trainer(tmp_path, plugins=[Skipping()], accumulate_grad_batches=every).fit(model, rows(6))
    assert [step for _, step in model.seen] == steps


def test_max_steps_counts_steps_that_were_taken(tmp_path):
    model = Overflowing(at={0, 3})
    trainer = quiet_trainer(tmp_path, plugins=[Skipping()], max_steps=4, max_epochs=-1)
    trainer.fit(model, rows(4))
    assert (trainer.global_step, len(model.seen)) == (4, 6)


@pytest.mark.filterwarnings("ignore:Manual optimisation steps schedulers itself")
def test_a_skipped_step_of_manual_optimisation_does_not_count(tmp_path):
    model = Overflowing(at={1}, manual=True)
    trainer = quiet_trainer(tmp_path, plugins=[Skipping()])
    trainer.fit(model, rows(4))
    assert [step for _, step in model.seen] == [1, 1, 2, 3]


def test_a_resume_from_the_end_of_a_skipped_batch_goes_on_with_the_same_rates(tmp_path):
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.save_checkpoint(tmp_path / f"{batch_idx}.ckpt")

    whole, logger = Overflowing(at={1}), RecordingLogger()
    options = {"plugins": [Skipping()], "log_every_n_steps": 1}
    quiet_trainer(tmp_path, callbacks=[Save()], logger=logger, **options).fit(whole, rows(4))
    for batch_idx in range(4):
        rest, again = Overflowing(at={1}), RecordingLogger()
        trainer = quiet_trainer(tmp_path, logger=again, **options)
        trainer.fit(rest, rows(4), ckpt_path=tmp_path / f"{batch_idx}.ckpt")
        assert rest.seen == whole.seen[batch_idx + 1 :]
        assert same_weights(rest, whole)
        values = logger.values("batch")
        assert again.values("batch") == values[len(values) - len(again.values("batch")) :]


def test_a_batch_that_is_none_is_no_step(tmp_path):
    """In Lightning the schedule moves on, and the metrics of the batch before are logged again."""
    first, *rest = rows(3)
    model, logger = Overflowing(), RecordingLogger()
    trainer = quiet_trainer(tmp_path, logger=logger, log_every_n_steps=1)
    with pytest.warns(UserWarning, match="gave None for batch 1"):
        trainer.fit(model, Given(first, None, *rest))
    assert model.seen == [(0.5, 1), (0.5, 1), (0.25, 2), (0.125, 3)]
    assert logger.values("batch") == [(0, 1.0), (1, 3.0), (2, 4.0)]


# -- learning rates -------------------------------------------------------------------------------------------


def test_an_epoch_that_the_model_cuts_short_steps_the_schedules_of_epochs(tmp_path):
    """As in Lightning; there the schedules of steps move as well, though there is no step."""

    class Cut(LoggingModel):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 2 else None

        def configure_optimizers(self):
            optimizer = SGD(self.parameters(), 1.0)
            by_epoch, by_step = StepLR(optimizer, 1, 0.5), StepLR(optimizer, 1, 0.1)
            plateau = ReduceLROnPlateau(optimizer)
            return [optimizer], [
                by_epoch,
                {"scheduler": by_step, "interval": "step"},
                {"scheduler": plateau, "monitor": "train_loss"},
            ]

    trainer = quiet_trainer(tmp_path, max_epochs=3)
    trainer.fit(Cut(), rows(4))
    by_epoch, by_step, plateau = trainer.run.lr_schedulers
    assert (by_epoch.last_epoch, by_step.last_epoch, plateau.last_epoch) == (3, 6, 3)
    assert trainer.global_step == 6


class Plateau(ValidatedModel):
    """Keeps the values that its scheduler is given."""

    def __init__(self, **options):
        super().__init__()
        self.options, self.given = options, []

    def validation_step(self, batch, batch_idx):
        self.log("val", float(self.trainer.progress.total_batches))

    def lr_scheduler_step(self, scheduler, metric):
        self.given.append(float(metric))

    def configure_optimizers(self):
        optimizer = SGD(self.parameters(), 0.1)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "val", **self.options},
        }


PLATEAUS = {
    "every second epoch": ({}, {"check_val_every_n_epoch": 2, "max_epochs": 6}, [8, 16, 24]),
    "every third turn": ({"frequency": 3}, {"check_val_every_n_epoch": 2, "max_epochs": 6}, [8, 24]),
    "twice in an epoch": ({}, {"val_check_interval": 0.5, "max_epochs": 2}, [4, 8]),
    "across epochs": ({}, {"val_check_interval": 6, "check_val_every_n_epoch": None, "max_epochs": 4}, [6, 12]),
    "by step": ({"interval": "step"}, {"val_check_interval": 2, "max_epochs": 2}, [2, 4, 6, 8]),
    "by every third step": ({"interval": "step", "frequency": 3}, {"val_check_interval": 2, "max_epochs": 2}, [2, 6]),
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("case", PLATEAUS)
def test_a_plateau_steps_once_for_each_value_of_the_validation(tmp_path, case, strict):
    """It waits for the first one. Lightning refuses to, or with strict=False gives a value again and again."""
    config, options, given = PLATEAUS[case]
    model = Plateau(strict=strict, **config)
    quiet_trainer(tmp_path, **options).fit(model, rows(4), rows(1))
    assert model.given == given


@pytest.mark.parametrize("hook", ["on_validation_end", "on_train_epoch_end"])
def test_a_resumed_fit_gives_no_value_again(tmp_path, hook):
    paths = []

    def save(self, trainer, pl_module):
        if not trainer.sanity_checking:
            paths.append((tmp_path / f"{len(paths)}.ckpt", len(whole.given)))
            trainer.save_checkpoint(paths[-1][0])

    options = {"check_val_every_n_epoch": 2, "max_epochs": 5}
    whole = Plateau()
    callback = type("Save", (pl.Callback,), {hook: save})()
    quiet_trainer(tmp_path, callbacks=[callback], **options).fit(whole, rows(4), rows(1))
    assert whole.given == [8.0, 16.0]
    for path, given in paths:
        rest = Plateau()
        quiet_trainer(tmp_path, **options).fit(rest, rows(4), rows(1), ckpt_path=path)
        assert rest.given == whole.given[given:]


def test_a_name_that_the_validation_never_logs_is_an_error_after_the_first(tmp_path):
    model = Plateau(monitor="vaal")
    trainer = quiet_trainer(tmp_path, check_val_every_n_epoch=2, max_epochs=6)
    with pytest.raises(MisconfigurationException, match=r"'vaal', which was not logged.*did you mean 'val'"):
        trainer.fit(model, rows(4), rows(1))
    assert trainer.current_epoch == 1


def test_a_metric_of_training_is_given_every_epoch_beside_a_sparse_validation(tmp_path):
    model = Plateau(monitor="train_loss")
    quiet_trainer(tmp_path, check_val_every_n_epoch=2, max_epochs=3).fit(model, rows(4), rows(1))
    assert len(set(model.given)) == 3


def test_a_second_fit_waits_for_a_validation_of_its_own(tmp_path):
    model = Plateau(frequency=3)
    trainer = quiet_trainer(tmp_path, check_val_every_n_epoch=2, max_epochs=2)
    trainer.fit(model, rows(4), rows(1))
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, rows(4), rows(1))
    assert model.given == []

"""How a fit ends: epochs, steps, time, a request, an error, Ctrl-C; and what the Trainer then knows."""

import pytest
import torch

import leyden as pl
from leyden.utilities.exceptions import MisconfigurationException, SIGTERMException
from leyden_testing.models import LoggingModel, RecordingLogger, ValidatedModel, rows
from leyden_testing.training import quiet_trainer


class StopAt(pl.Callback):
    """Asks the run to stop after so many batches."""

    def __init__(self, batches):
        self.batches = batches

    def on_train_batch_end(self, trainer, *args):
        self.batches -= 1
        if self.batches == 0:
            trainer.should_stop = True


@pytest.mark.parametrize(
    ("options", "epochs", "steps"),
    [
        ({"max_epochs": 3}, 3, 12),
        ({"max_epochs": 0}, 0, 0),
        ({"max_steps": 6, "max_epochs": -1}, 2, 6),
        ({"max_steps": 8, "max_epochs": 9}, 2, 8),
        ({"max_steps": 99, "max_epochs": 2}, 2, 8),
        ({"max_steps": 0, "max_epochs": 2}, 0, 0),
        ({"max_steps": 3, "max_epochs": -1, "accumulate_grad_batches": 2}, 2, 3),
        ({"max_epochs": None, "max_steps": 5}, 2, 5),
        ({"limit_train_batches": 0, "max_epochs": 2}, 0, 0),
    ],
    ids=str,
)
def test_limits(tmp_path, options, epochs, steps):
    trainer = quiet_trainer(tmp_path, **options)
    trainer.fit(LoggingModel(), rows(4))
    assert (trainer.current_epoch, trainer.global_step) == (epochs, steps)
    assert trainer.state.finished
    assert not trainer.interrupted


def test_no_limit_at_all_is_said(tmp_path):
    trainer = quiet_trainer(tmp_path, max_epochs=None, callbacks=[StopAt(1)])
    with pytest.warns(UserWarning, match="max_epochs is 1000"):
        trainer.fit(LoggingModel(), rows(1))
    assert trainer.max_epochs == 1000


@pytest.mark.parametrize(
    ("options", "stop", "epochs", "steps"),
    [
        ({}, 2, 1, 2),
        ({}, 4, 1, 4),
        ({"min_epochs": 2}, 2, 2, 8),
        ({"min_steps": 6}, 2, 2, 6),
        ({"min_steps": 3}, 2, 1, 4),  # min_steps alone means min_epochs=1 too
        ({"min_epochs": 1, "min_steps": 6}, 2, 2, 6),
        ({"min_epochs": 9, "max_epochs": 2}, 2, 2, 8),
    ],
    ids=str,
)
def test_a_request_to_stop_and_the_minima(tmp_path, options, stop, epochs, steps):
    trainer = quiet_trainer(tmp_path, **{"max_epochs": 9, "callbacks": [StopAt(stop)], **options})
    trainer.fit(LoggingModel(), rows(4))
    assert (trainer.current_epoch, trainer.global_step) == (epochs, steps)


def test_a_request_validates_and_ends_the_epoch_before_it_stops(tmp_path):
    calls = []

    class Model(ValidatedModel):
        def on_validation_end(self):
            calls.append("validated")

        def on_train_epoch_end(self):
            calls.append("epoch ended")

        def on_train_end(self):
            calls.append("train ended")

    trainer = quiet_trainer(tmp_path, max_epochs=3, num_sanity_val_steps=0, callbacks=[StopAt(2)])
    trainer.fit(Model(), rows(4), rows(1))
    assert calls == ["validated", "epoch ended", "train ended"]


def test_a_second_fit_does_not_remember_the_request(tmp_path):
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[StopAt(1)])
    trainer.fit(LoggingModel(), rows(4))
    assert trainer.global_step == 1
    trainer.fit_loop.max_epochs = 2
    trainer.fit(LoggingModel(), rows(4))
    assert trainer.global_step == 5


@pytest.mark.parametrize(
    "option",
    [{"max_epochs": -2}, {"max_steps": -2}, {"min_epochs": -1}, {"min_steps": 1.5}, {"max_time": "soon"}],
    ids=str,
)
def test_limits_that_mean_nothing_are_refused(tmp_path, option):
    with pytest.raises(MisconfigurationException, match=next(iter(option))):
        quiet_trainer(tmp_path, **option)


# -- errors and requests to end -------------------------------------------------------------------------------------


class Witness(pl.Callback):
    """Keeps the exception, and how the Trainer stood when it came."""

    def on_exception(self, trainer, pl_module, exception):
        self.exception, self.status = exception, trainer.state.status


def failing(error, at=2):
    """A model whose step raises in the middle of an epoch."""

    class Model(LoggingModel):
        def training_step(self, batch, batch_idx):
            if batch_idx == at:
                raise error
            return self.loss(batch)

    return Model()


@pytest.mark.parametrize("error", [ValueError("mine"), ZeroDivisionError()], ids=repr)
def test_an_error_reaches_everybody_and_the_caller(tmp_path, error):
    witness, logger, model = Witness(), RecordingLogger(), failing(error)
    model.on_exception = lambda exception: setattr(model, "told", exception)
    trainer = quiet_trainer(tmp_path, callbacks=[witness], logger=logger, log_every_n_steps=1)
    with pytest.raises(type(error)) as raised:
        trainer.fit(model, rows(4))
    assert raised.value is error is witness.exception is model.told
    assert trainer.interrupted
    assert witness.status == "interrupted"
    assert logger.ended == ["failed"]
    assert not torch.is_inference_mode_enabled()


def test_a_trainer_works_again_after_an_error(tmp_path):
    trainer = quiet_trainer(tmp_path)
    with pytest.raises(ValueError, match="mine"):
        trainer.fit(failing(ValueError("mine")), rows(4))
    trainer.fit(LoggingModel(), rows(4))
    assert trainer.state.finished
    assert trainer.global_step == 6  # 2 of the one that failed


def test_an_error_in_evaluation_leaves_gradients_on(tmp_path):
    model = LoggingModel()
    model.test_step = lambda batch, batch_idx: 1 / 0
    with pytest.raises(ZeroDivisionError):
        quiet_trainer(tmp_path).test(model, rows(1))
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.filterwarnings("ignore:.*in evaluation mode")
@pytest.mark.parametrize("error", [ValueError("a broken sample"), KeyboardInterrupt()])
@pytest.mark.parametrize(("stage", "sanity"), [("fit", 0), ("fit", 1), ("validate", 0), ("test", 0), ("predict", 0)])
def test_a_pass_that_fails_puts_every_mode_back(tmp_path, stage, sanity, error):
    """pytorch-lightning leaves the model in evaluation mode, and the next fit trains without dropout."""

    def fail(batch, batch_idx):
        raise error

    model = ValidatedModel()
    model.dropout, model.frozen = torch.nn.Dropout(), torch.nn.Dropout().eval()
    model.validation_step = model.test_step = model.predict_step = fail
    trainer = quiet_trainer(tmp_path, num_sanity_val_steps=sanity)
    loaders = [rows(1)] * (2 if stage == "fit" else 1)
    with pytest.raises(type(error)):
        getattr(trainer, stage)(model, *loaders)
    assert (model.training, model.dropout.training, model.frozen.training) == (True, True, False)


def test_ctrl_c_ends_the_run_in_order_and_can_be_caught(tmp_path):
    """pytorch-lightning exits with 1 instead, so that ``except KeyboardInterrupt`` around its ``fit`` never runs."""
    witness, logger, pressed = Witness(), RecordingLogger(), KeyboardInterrupt()
    trainer = quiet_trainer(tmp_path, callbacks=[witness], logger=logger, log_every_n_steps=1)
    with pytest.raises(KeyboardInterrupt) as raised:
        trainer.fit(failing(pressed), rows(4))
    assert raised.value is witness.exception is pressed
    assert trainer.interrupted
    assert logger.ended == ["failed"]


def test_a_second_ctrl_c_ends_it_at_once(tmp_path):
    """Whatever the first one has begun."""

    class Slow(Witness):
        def on_exception(self, trainer, pl_module, exception):
            super().on_exception(trainer, pl_module, exception)
            raise KeyboardInterrupt("again")

    witness, logger = Slow(), RecordingLogger()
    trainer = quiet_trainer(tmp_path, callbacks=[witness], logger=logger, log_every_n_steps=1)
    with pytest.raises(KeyboardInterrupt, match="again"):
        trainer.fit(failing(KeyboardInterrupt()), rows(4))
    assert isinstance(witness.exception, KeyboardInterrupt)
    assert logger.ended == []


class Ask(Witness):
    """Asks a fit to end, and keeps what it is told then.

    Args:
        where: The hook in which it asks.
        step: After how many steps.
    """

    def __init__(self, where, step):
        self.step, self.told = step, []
        setattr(self, where, self.ask)

    def ask(self, trainer, pl_module):
        if trainer.global_step == self.step:
            trainer.asked_to_end = "maintenance"

    def on_asked_to_end(self, trainer, pl_module, reason):
        self.told.append((reason, pl_module, trainer.global_step))

    def on_exception(self, trainer, pl_module, exception):
        super().on_exception(trainer, pl_module, exception)
        self.told.append("exception")


@pytest.mark.parametrize(
    ("where", "step", "ended"),
    [("on_after_backward", 1, 2), ("on_validation_end", 2, 2), ("on_train_epoch_end", 4, 4), ("on_fit_start", 0, 1)],
)
def test_a_fit_that_is_asked_to_end_tells_everybody_at_the_next_step_boundary(tmp_path, where, step, ended):
    ask, logger, model = Ask(where, step), RecordingLogger(), ValidatedModel()
    options = {"num_sanity_val_steps": 0, "val_check_interval": 2, "log_every_n_steps": 1}
    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=[ask], logger=logger, **options)
    with pytest.raises(SIGTERMException) as raised:
        trainer.fit(model, rows(4), rows(1))
    assert raised.value is ask.exception
    assert raised.value.code == 143
    assert ask.told == [("maintenance", model, ended), "exception"]
    assert trainer.interrupted
    assert logger.ended == ["failed"]


def test_the_next_run_does_not_remember_that_one_was_asked_to_end(tmp_path):
    ask = Ask("on_after_backward", 1)
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[ask])
    with pytest.raises(SIGTERMException):
        trainer.fit(LoggingModel(), rows(4))
    trainer.fit(LoggingModel(), rows(4))
    assert trainer.state.finished
    assert trainer.asked_to_end == ""


# -- what the Trainer knows ---------------------------------------------------------------------------------


def test_attributes_through_a_run(tmp_path):
    seen = {}

    class Watch(pl.Callback):
        def note(self, name, trainer):
            stages = ("sanity_checking", "training", "validating", "testing", "predicting")
            seen[name] = (trainer.state.fn, [stage for stage in stages if getattr(trainer, stage)])

        def on_sanity_check_start(self, trainer, pl_module):
            self.note("sanity", trainer)

        def on_train_batch_start(self, trainer, *args):
            self.note("train", trainer)
            seen["last"] = trainer.is_last_batch

        def on_validation_batch_start(self, trainer, *args):
            if not trainer.sanity_checking:
                self.note("validate", trainer)

        def on_test_batch_start(self, trainer, *args):
            self.note("test", trainer)

        def on_predict_batch_start(self, trainer, *args):
            self.note("predict", trainer)

    model, trainer = ValidatedModel(), quiet_trainer(tmp_path, callbacks=[Watch()])
    train, validation = rows(2), rows(1)
    trainer.fit(model, train, validation)
    assert (trainer.train_dataloader, trainer.val_dataloaders) == (train, validation)
    trainer.test(model, rows(1), verbose=False)
    trainer.predict(model, rows(1))
    assert seen == {
        "sanity": ("fit", ["sanity_checking"]),
        "train": ("fit", ["training"]),
        "last": True,
        "validate": ("fit", ["validating"]),
        "test": ("test", ["testing"]),
        "predict": ("predict", ["predicting"]),
    }
    assert (trainer.world_size, trainer.global_rank, trainer.is_global_zero, trainer.num_devices) == (1, 0, True, 1)
    assert trainer.default_root_dir == str(tmp_path)
    assert trainer.log_dir == str(tmp_path)
    assert trainer.model is model
    assert (trainer.checkpoint_callback, trainer.early_stopping_callback, trainer.progress_bar_callback) == (None,) * 3
    assert (trainer.callbacks[0].__class__, trainer.logger, trainer.loggers) == (Watch, None, [])
    assert trainer.precision == "32-true"
    assert trainer.scaler is None


def test_barebones_turns_everything_off(tmp_path):
    with pytest.raises(ValueError, match=r"barebones=True.*enable_checkpointing=True"):
        pl.Trainer(accelerator="cpu", barebones=True, enable_checkpointing=True)
    trainer = pl.Trainer(accelerator="cpu", barebones=True, max_epochs=1, default_root_dir=tmp_path)
    model = ValidatedModel()
    with pytest.warns(UserWarning, match=r"does nothing under Trainer\(barebones=True\)"):
        trainer.fit(model, rows(2), rows(1))
    assert (trainer.loggers, trainer.callbacks, trainer.global_step) == ([], [], 2)
    assert list(tmp_path.iterdir()) == []


def test_a_fit_resumed_with_fewer_batches_ends_the_epoch_with_its_last_one(tmp_path):
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "four.ckpt")

    class Calls(pl.Callback):
        def __init__(self):
            self.calls = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.calls.append(batch_idx)

        def on_validation_end(self, trainer, pl_module):
            self.calls.append("validated")

    quiet_trainer(tmp_path, callbacks=[Save()]).fit(ValidatedModel(), rows(8), rows(2))
    calls = Calls()
    trainer = quiet_trainer(tmp_path, callbacks=[calls], limit_train_batches=4)
    trainer.fit(ValidatedModel(), rows(8), rows(2), ckpt_path=tmp_path / "four.ckpt")
    assert calls.calls == [3, "validated"]
    assert (trainer.current_epoch, trainer.global_step) == (1, 5)

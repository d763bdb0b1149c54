"""When a run ends: limits, early stopping, errors and interruptions."""

import signal
from contextlib import nullcontext

import pytest
import torch

from leyden_testing.models import rows

from .parity_harness import parity


@parity
@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 3},
        {"max_epochs": 0},
        {"max_steps": 0},
        {"max_steps": 5},
        {"max_steps": 3, "max_epochs": 9},
        {"max_epochs": -1, "max_steps": 4},
        {"max_epochs": 9, "max_steps": 4, "accumulate_grad_batches": 3},
        {"max_epochs": 1, "max_time": "00:00:00:00"},
        {"min_epochs": 2, "max_epochs": 3},
    ],
    ids=str,
)
def test_limit(pl, lab, options):
    lab.trainer(**options).fit(lab.model(), rows(3), rows(1))


@parity
@pytest.mark.parametrize(
    "options", [{}, {"min_epochs": 2}, {"min_steps": 5}, {"min_epochs": 2, "min_steps": 2}], ids=str
)
@pytest.mark.parametrize(
    "hook", ["on_train_batch_end", "on_train_epoch_end", "on_validation_end", "on_train_epoch_start"]
)
def test_should_stop_set_in_a_hook(pl, lab, options, hook):
    class Stop(pl.Callback):
        pass

    def stop(self, trainer, *args):
        if not trainer.sanity_checking:
            trainer.should_stop = True

    setattr(Stop, hook, stop)
    lab.trainer(max_epochs=4, callbacks=[Stop()], **options).fit(lab.model(), rows(3), rows(1))


def make_scripted_model(lab, values):
    """A model whose ``val`` metric is the next of ``values`` in each epoch."""

    class Model(lab.Model):
        def validation_step(self, batch, batch_idx):
            self.log("val", values[min(self.current_epoch, len(values) - 1)])

    return Model


EARLY_STOPPING = {
    "patience": ({"patience": 2}, [3.0, 2.0, 2.5, 2.4, 1.0, 1.0]),
    "no patience": ({"patience": 0}, [3.0, 2.0, 2.5, 1.0]),
    "mode max": ({"patience": 1, "mode": "max"}, [1.0, 2.0, 1.5, 1.4, 1.3]),
    "min_delta": ({"patience": 1, "min_delta": 0.6}, [3.0, 2.5, 2.0, 1.0, 0.9]),
    "stopping_threshold": ({"stopping_threshold": 1.0}, [3.0, 2.0, 0.5, 0.1]),
    "divergence_threshold": ({"divergence_threshold": 9.0}, [3.0, 10.0, 1.0]),
    "check_finite": ({}, [3.0, float("nan"), 1.0]),
    "not check_finite": ({"check_finite": False, "patience": 1}, [3.0, float("nan"), 4.0, 1.0]),
    "training epoch's end": ({"patience": 0, "check_on_train_epoch_end": True}, [3.0, 4.0, 5.0]),
    "validation's end": ({"patience": 0, "check_on_train_epoch_end": False}, [3.0, 4.0, 5.0]),
}


@parity
@pytest.mark.parametrize("case", EARLY_STOPPING)
def test_early_stopping(pl, lab, case):
    options, values = EARLY_STOPPING[case]
    stopping = pl.callbacks.EarlyStopping("val", **options)
    lab.trainer(max_epochs=6, callbacks=[stopping]).fit(lab.model(make_scripted_model(lab, values)), rows(1), rows(1))
    lab.note("stopped", [stopping.stopped_epoch, stopping.wait_count, stopping.best_score])
    lab.note("state", {key: value for key, value in stopping.state_dict().items() if key != "stopping_reason_message"})
    lab.note("key", stopping.state_key)


@parity
def test_early_stopping_waits_for_min_epochs(pl, lab):
    stopping = pl.callbacks.EarlyStopping("val", patience=0)
    trainer = lab.trainer(max_epochs=6, min_epochs=4, callbacks=[stopping])
    trainer.fit(lab.model(make_scripted_model(lab, [1.0, 2.0, 3.0])), rows(2), rows(1))


@parity
@pytest.mark.parametrize("strict", [True, False])
def test_early_stopping_on_a_metric_that_is_missing(pl, lab, strict):
    trainer = lab.trainer(callbacks=[pl.callbacks.EarlyStopping("none", strict=strict)])
    with lab.raises("RuntimeError") if strict else nullcontext():
        trainer.fit(lab.model(), rows(1), rows(1))


@parity
def test_early_stopping_with_an_unknown_mode(pl, lab):
    with lab.refuses("MisconfigurationException"):
        pl.callbacks.EarlyStopping("val", mode="best")


@parity
@pytest.mark.parametrize("batch", [0, 2])
def test_minus_one_skips_the_rest_of_the_epoch(pl, lab, batch):
    class Model(lab.Model):
        def on_train_batch_start(self, batch_, batch_idx):
            return -1 if batch_idx == batch else None

    lab.trainer().fit(lab.model(Model), rows(4), rows(1))


@parity
@pytest.mark.parametrize("n", [True, 1, 2, 20])
def test_fast_dev_run(pl, lab, n):
    """No logger, no checkpoints, no early stopping; n batches of each kind."""
    callbacks = [pl.callbacks.EarlyStopping("val_loss"), pl.callbacks.ModelCheckpoint(monitor="val_loss")]
    trainer, model = lab.trainer(fast_dev_run=n, callbacks=callbacks, enable_checkpointing=True), lab.model()
    trainer.fit(model, rows(4), rows(3))
    lab.note("test", trainer.test(model, rows(4)))
    lab.note("predict", trainer.predict(model, rows(4)))
    lab.note("limits", [trainer.max_epochs, trainer.max_steps, trainer.num_sanity_val_steps])
    lab.note("logger", type(trainer.logger).__name__)


ERRORS = {
    "training_step": ("fit", 1),
    "validation_step": ("fit", 0),
    "test_step": ("test", 1),
    "predict_step": ("predict", 1),
    "on_train_epoch_end": ("fit", None),
    "configure_optimizers": ("fit", None),
    "setup": ("fit", None),
}


@parity
@pytest.mark.parametrize("where", ERRORS)
def test_an_error_ends_the_run(pl, lab, where):
    """Every callback hears of it, and the logger."""
    stage, at = ERRORS[where]
    lab.differs(" trains: ", "in Leyden a pass that fails puts the modes back")
    if where == "validation_step":
        reason = "passed loaders are looked at before the sanity check: what is wrong with them is said before it reads"
        lab.differs("num_training_batches", reason)

    class Failing(lab.Model):
        pass

    original = getattr(lab.Model, where)
    signatures = {
        "configure_optimizers": lambda self: fail(self),
        "on_train_epoch_end": lambda self: fail(self),
        "setup": lambda self, stage: fail(self),
    }

    def fail(self, batch=None, batch_idx=None):
        if at == batch_idx:
            raise ZeroDivisionError("on purpose")
        return original(self, batch, batch_idx)

    setattr(Failing, where, signatures.get(where, lambda self, batch, batch_idx: fail(self, batch, batch_idx)))
    arguments = [rows(2), rows(2)] if stage == "fit" else [rows(2)]
    with lab.raises("ZeroDivisionError"):
        getattr(lab.trainer(), stage)(lab.model(Failing), *arguments)


@parity
def test_an_interrupt_ends_the_run(pl, lab):
    class Interrupted(lab.Model):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    lab.differs("^raised: ", "in Leyden `except KeyboardInterrupt` works around a run, in Lightning it never runs")
    with lab.raises("KeyboardInterrupt" if pl.__name__ == "leyden" else "SystemExit"):
        lab.trainer().fit(lab.model(Interrupted), rows(3), rows(1))


@parity
def test_timer(pl, lab):
    """Time runs out at once, so that nothing depends on the machine's speed."""
    timer = pl.callbacks.Timer(duration={"seconds": 0}, interval="step")
    lab.trainer(max_epochs=3, callbacks=[timer]).fit(lab.model(), rows(3), rows(1))
    lab.note("trained", timer.start_time("train") is not None)


@parity
def test_loss_that_is_not_a_number_trains_on(pl, lab):
    class Model(lab.Model):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * float("nan") if batch_idx == 1 else loss

    lab.trainer(max_epochs=1).fit(lab.model(Model), rows(3))


@parity
def test_signal_handlers_are_given_back(pl, lab):
    before = signal.getsignal(signal.SIGTERM)
    lab.trainer(max_epochs=1).fit(lab.model(), rows(1))
    lab.note("same", signal.getsignal(signal.SIGTERM) is before)


@parity
def test_grad_mode_is_given_back(pl, lab):
    class Failing(lab.Model):
        def validation_step(self, batch, batch_idx):
            raise ZeroDivisionError

    lab.differs(" trains: ", "in Leyden a pass that fails puts the modes back")
    with lab.raises("ZeroDivisionError"):
        lab.trainer().validate(lab.model(Failing), rows(1))
    lab.note("mode", [torch.is_grad_enabled(), torch.is_inference_mode_enabled()])

"""``self.log``: what it takes, how it reduces, where each value goes and when."""

import inspect
import pickle
from collections import OrderedDict, UserDict, UserList, namedtuple
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import leyden as pl
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.models import Given, LoggingModel, RecordingLogger, ValidatedModel, logged_fit, model_that, rows
from leyden_testing.training import quiet_trainer

# -- where and when -----------------------------------------------------------------------------------------


def test_a_training_step_logs_every_step_and_an_epoch_hook_every_epoch(tmp_path):
    class Model(LoggingModel):
        def training_step(self, batch, batch_idx):
            self.log("index", batch_idx)
            return self.loss(batch)

        def on_train_epoch_end(self):
            self.log("epochs", self.current_epoch)

    logger, _ = logged_fit(tmp_path, Model(), 3, max_epochs=2)
    assert logger.logged == [
        (0, {"index": 0.0, "epoch": 0}),
        (1, {"index": 1.0, "epoch": 0}),
        (2, {"index": 2.0, "epoch": 0}),
        (2, {"epochs": 0.0, "epoch": 0}),
        (3, {"index": 0.0, "epoch": 1}),
        (4, {"index": 1.0, "epoch": 1}),
        (5, {"index": 2.0, "epoch": 1}),
        (5, {"epochs": 1.0, "epoch": 1}),
    ]


def test_names_of_a_value_logged_by_step_and_by_epoch(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("value", batch_idx, on_step=True, on_epoch=True)
        return self.loss(batch)

    logger, trainer = logged_fit(tmp_path, model_that(training_step=training_step), 3)
    assert logger.values("value_step") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert logger.values("value_epoch") == [(2, 1.0)]
    assert not logger.values("value")
    assert {name: value.item() for name, value in trainer.callback_metrics.items()} == {
        "value": 1.0, "value_step": 2.0, "value_epoch": 1.0,
    }  # fmt: skip


STEP_HOOKS = [
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
]
EPOCH_HOOKS = ["on_train_start", "on_train_epoch_start", "on_train_epoch_end"]
VALIDATION_HOOKS = ["on_validation_start", "on_validation_epoch_start", "on_validation_epoch_end"]
BATCH_VALIDATION_HOOKS = ["on_validation_batch_start", "on_validation_batch_end", "validation_step"]
FORBIDDEN_HOOKS = [
    "setup", "on_fit_start", "on_sanity_check_start", "on_sanity_check_end", "on_train_end", "on_fit_end", "teardown",
    "on_validation_end",
]  # fmt: skip


@pytest.mark.parametrize("hook", [*STEP_HOOKS, *EPOCH_HOOKS, *VALIDATION_HOOKS, *BATCH_VALIDATION_HOOKS])
def test_the_default_of_each_hook(tmp_path, hook):
    """In a training batch every step is logged; everywhere else the mean of the epoch."""

    def log(self, *args):
        self.log("value", 2.0)

    model = type("Model", (ValidatedModel,), {hook: log})()
    logger, trainer = logged_fit(tmp_path, model, 3, rows(2), num_sanity_val_steps=0)
    assert [value for _, value in logger.values("value")] == [2.0] * (3 if hook in STEP_HOOKS else 1)
    assert trainer.callback_metrics["value"] == 2.0


@pytest.mark.parametrize("hook", FORBIDDEN_HOOKS)
def test_a_callback_may_log_where_it_has_a_meaning_only(tmp_path, hook):
    def log(self, trainer, pl_module, *args):
        pl_module.log("value", 1.0)

    callback = type("Logs", (pl.Callback,), {hook: log})()
    with pytest.raises(MisconfigurationException, match=r"self\.log\('value"):
        logged_fit(tmp_path, ValidatedModel(), 1, rows(1), callbacks=[callback])


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end", "on_validation_epoch_end"])
def test_callbacks_log_through_the_module(tmp_path, hook):
    def log(self, trainer, pl_module, *args):
        if not trainer.sanity_checking:
            pl_module.log("mine", 3.0)

    callback = type("Logs", (pl.Callback,), {hook: log})()
    logger, _ = logged_fit(tmp_path, ValidatedModel(), 1, rows(1), callbacks=[callback])
    assert logger.values("mine") == [(0, 3.0)]


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end", "on_validation_epoch_end"])
def test_callbacks_log_by_themselves(tmp_path, hook):
    def log(self, trainer, pl_module, *args):
        if not trainer.sanity_checking:
            self.log("mine", 3.0, prog_bar=True)
            self.log_dict({"a": 1.0, "b": 2.0}, on_epoch=True, on_step=False)

    callback = type("Logs", (pl.Callback,), {hook: log})()
    logger, trainer = logged_fit(tmp_path, ValidatedModel(), 1, rows(1), callbacks=[callback])
    assert [logger.values(name) for name in ("mine", "a", "b")] == [[(0, 3.0)], [(0, 1.0)], [(0, 2.0)]]
    assert trainer.progress_bar_metrics == {"mine": 3.0}


def test_a_callback_that_logs_outside_of_a_run_is_told():
    with pytest.raises(MisconfigurationException, match=r"self\.log\('mine', …\) of Callback .* outside of a run"):
        pl.Callback().log("mine", 1.0)


def test_a_callback_that_has_logged_is_copied_without_the_module(tmp_path):
    callback = pl.Callback()
    quiet_trainer(tmp_path, callbacks=[callback]).fit(LoggingModel(), Given(*rows(1)))
    copied = pickle.loads(pickle.dumps(callback))
    with pytest.raises(MisconfigurationException, match="outside of a run"):
        copied.log("mine", 1.0)


def test_a_callback_s_own_attribute_is_left_alone(tmp_path):
    class Notes(pl.Callback):
        def __init__(self):
            self.log = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.log.append(batch_idx)

    notes = Notes()
    quiet_trainer(tmp_path, callbacks=[notes]).fit(LoggingModel(), Given(*rows(2)))
    assert notes.log == [0, 1]


def test_prediction_logs_nothing_and_says_so(tmp_path):
    model = model_that(predict_step=lambda self, batch, batch_idx: self.log("value", 1.0))
    with pytest.raises(MisconfigurationException, match=r"self\.log\('value"):
        quiet_trainer(tmp_path).predict(model, rows(1))


@pytest.mark.parametrize("hook", EPOCH_HOOKS)
def test_an_epoch_hook_has_no_steps(tmp_path, hook):
    model = model_that(**{hook: lambda self, *args: self.log("value", 1.0, on_step=True)})
    with pytest.raises(MisconfigurationException, match=f"on_step=True.*{hook}"):
        logged_fit(tmp_path, model, 1)


def test_without_a_trainer_it_only_warns():
    with pytest.warns(UserWarning, match="not attached to a Trainer"):
        LoggingModel().log("value", 1.0)


@pytest.mark.parametrize(("every", "accumulate", "steps"), [(1, 1, 6), (2, 1, 3), (4, 1, 1), (1, 2, 3), (2, 2, 1)])
def test_log_every_n_steps_counts_optimizer_steps(tmp_path, every, accumulate, steps):
    logger = RecordingLogger()
    trainer = quiet_trainer(tmp_path, logger=logger, log_every_n_steps=every, accumulate_grad_batches=accumulate)
    trainer.fit(LoggingModel(), rows(6))
    assert [step for step, _ in logger.values("train_loss")] == [every * (i + 1) - 1 for i in range(steps)]


def test_a_value_named_step_takes_the_place_of_the_step(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("step", 100.0 + batch_idx)
        self.log("value", 1.0)
        return self.loss(batch)

    logger, _ = logged_fit(tmp_path, model_that(training_step=training_step), 2)
    assert logger.logged == [(100, {"value": 1.0}), (101, {"value": 1.0})]


def test_each_destination_is_chosen(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("bar", 1.0, prog_bar=True, logger=False)
        self.log("logger", 2.0)
        self.log("neither", 3.0, logger=False)
        return self.loss(batch)

    seen = {}

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            seen.update(bar=dict(trainer.progress_bar_metrics), logged=dict(trainer.logged_metrics))
            seen.update(callbacks=dict(trainer.callback_metrics))

    logger, _ = logged_fit(tmp_path, model_that(training_step=training_step), 1, callbacks=[Look()])
    assert logger.logged == [(0, {"logger": 2.0, "epoch": 0})]
    assert seen["bar"] == {"bar": 1.0}
    assert type(seen["bar"]["bar"]) is float
    assert seen["logged"] == {"logger": 2.0}
    assert seen["callbacks"] == {"bar": 1.0, "logger": 2.0, "neither": 3.0}
    assert all(isinstance(value, torch.Tensor) for value in seen["callbacks"].values())


def test_several_loggers_get_everything_and_are_ended(tmp_path):
    first, second = RecordingLogger(), RecordingLogger()
    logged_fit(tmp_path, LoggingModel(), 2, logger=[first, second])
    assert first.logged == second.logged != []
    assert first.ended == second.ended == ["success"]


def test_the_sanity_check_leaves_nothing(tmp_path):
    class Model(ValidatedModel):
        def on_train_start(self):
            self.seen = dict(self.trainer.callback_metrics)

    model = Model()
    logger, _ = logged_fit(tmp_path, model, 1, rows(2), check_val_every_n_epoch=2, max_epochs=1)
    assert model.seen == {}
    assert not logger.values("val_loss")


def test_fast_dev_run_logs_nothing(tmp_path):
    logger, trainer = logged_fit(tmp_path, ValidatedModel(), 2, rows(2), fast_dev_run=True)
    assert logger.logged == []
    assert trainer.callback_metrics["val_loss"] > 0


class Reads(TorchDispatchMode):
    """Counts what waits for the device: the reading of a value, by ``item``, ``float``, ``bool`` and so on."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("reduction", ["mean", "min", "max", "sum", lambda values: values.sum()])
def test_no_value_is_read_before_it_is_shown(tmp_path, reduction):
    """Reading a tensor's value waits for the device."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True, reduce_fx=reduction)
        self.log("constant", 1.0)
        return loss

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            reads.count = 0 if batch_idx == 0 else reads.count  # PyTorch's DataLoader reads its seed before

        def on_train_batch_end(self, trainer, *args):
            self.read = reads.count

    look, reads = Look(), Reads()
    logger = RecordingLogger()
    trainer = quiet_trainer(tmp_path, logger=logger, log_every_n_steps=8, callbacks=[look])
    with reads:
        trainer.fit(model_that(training_step=training_step), Given(*rows(8)))
    assert look.read == 0
    assert reads.count == 3  # loss_step and constant once, loss_epoch once


# -- values and reductions ----------------------------------------------------------------------------------

VALUES = {
    "float": (1.5, 1.5),
    "int": (3, 3.0),
    "bool": (True, 1.0),
    "tensor": (torch.tensor(1.5), 1.5),
    "integer tensor": (torch.tensor(3), 3.0),
    "boolean tensor": (torch.tensor(True), 1.0),
    "tensor of one element": (torch.tensor([[2.5]]), 2.5),
    "double": (torch.tensor(0.1, dtype=torch.float64), 0.1),
    "half": (torch.tensor(0.5, dtype=torch.float16), 0.5),
    "nan": (float("inf"), float("inf")),
}


@pytest.mark.parametrize("case", VALUES)
def test_values(tmp_path, case):
    value, expected = VALUES[case]

    def training_step(self, batch, batch_idx):
        self.log("value", value, on_step=True, on_epoch=True)
        return self.loss(batch)

    logger, _ = logged_fit(tmp_path, model_that(training_step=training_step), 2)
    assert logger.values("value_step") == [(0, expected), (1, expected)]
    assert logger.values("value_epoch") == [(1, expected)]


@pytest.mark.parametrize(
    "value", ["text", None, [1.0], {"a": "text"}, torch.ones(2), object()], ids=lambda value: type(value).__name__
)
def test_what_is_no_number_is_refused(tmp_path, value):
    def training_step(self, batch, batch_idx):
        self.log("value", value)
        return self.loss(batch)

    with pytest.raises(ValueError, match=r"self\.log\('value"):
        logged_fit(tmp_path, model_that(training_step=training_step), 1)


def test_a_loss_that_is_changed_in_place_after_logging(tmp_path):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch) * 0 + batch_idx
        self.log("loss", loss, on_step=True, on_epoch=True)
        loss += 100
        constant = torch.ones(())
        self.log("constant", constant, reduce_fx="sum", on_step=True, on_epoch=True)
        constant.zero_()
        return loss

    logger, _ = logged_fit(tmp_path, model_that(training_step=training_step), 3)
    assert logger.values("loss_step") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert logger.values("loss_epoch") == [(2, 1.0)]
    assert logger.values("constant_step") == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert logger.values("constant_epoch") == [(2, 3.0)]


def test_the_graph_is_let_go_unless_it_is_asked_for(tmp_path):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("plain", loss)
        self.log("graph", loss, enable_graph=True)
        return loss

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            self.graphs = {name: value.requires_grad for name, value in trainer.callback_metrics.items()}

    look = Look()
    logged_fit(tmp_path, model_that(training_step=training_step), 1, callbacks=[look])
    assert look.graphs == {"plain": False, "graph": True}


REDUCTIONS = {
    "mean": ("mean", 1.5),
    "min": ("min", 0.0),
    "max": ("max", 3.0),
    "sum": ("sum", 6.0),
    "torch.mean": (torch.mean, 1.5),
    "torch.sum": (torch.sum, 6.0),
    "torch.min": (torch.min, 0.0),
    "the built-in max": (max, 3.0),
    "a function": (lambda values: values[-1] * 10, 30.0),
    "torch.std": (torch.std, torch.arange(4.0).std().item()),
}


@pytest.mark.parametrize("case", REDUCTIONS)
def test_reductions(tmp_path, case):
    function, expected = REDUCTIONS[case]

    def training_step(self, batch, batch_idx):
        self.log("value", batch_idx, on_step=False, on_epoch=True, reduce_fx=function)
        return self.loss(batch)

    logger, _ = logged_fit(tmp_path, model_that(training_step=training_step), 4, max_epochs=2)
    assert logger.values("value") == [(3, expected), (7, expected)]


@pytest.mark.parametrize("make", [lambda n: lambda values: values.max() * n, lambda n: partial(torch.quantile, q=1.0)])
def test_a_function_that_is_written_in_the_call(tmp_path, make):
    """It is a new object in every call."""

    def training_step(self, batch, batch_idx):
        self.log("value", float(batch_idx), on_step=False, on_epoch=True, reduce_fx=make(1))
        return self.loss(batch)

    logger, _ = logged_fit(tmp_path, model_that(training_step=training_step), 4)
    assert logger.values("value") == [(3, 3.0)]


def test_another_function_for_the_same_name_is_refused(tmp_path):
    def training_step(self, batch, batch_idx):
        function = (lambda values: values.max()) if batch_idx else (lambda values: values.min())
        self.log("value", 1.0, on_epoch=True, reduce_fx=function)
        return self.loss(batch)

    with pytest.raises(MisconfigurationException, match="twice in training_step with different arguments"):
        logged_fit(tmp_path, model_that(training_step=training_step), 2)


def test_an_unknown_reduction_is_refused(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("value", 1.0, on_epoch=True, reduce_fx="median")

    with pytest.raises(MisconfigurationException, match="reduce_fx='median'"):
        logged_fit(tmp_path, model_that(training_step=training_step), 1)


def sizes(*counts):
    """Batches of so many rows."""
    return Given(*[(torch.full((n, 4), float(i)), torch.zeros(n, 2)) for i, n in enumerate(counts)])


def test_a_mean_is_weighted_by_batch_size(tmp_path):
    def training_step(self, batch, batch_idx):
        value = batch[0].mean()
        self.log("rows", value, on_step=False, on_epoch=True)
        self.log("batches", value, on_step=False, on_epoch=True, batch_size=1)
        self.log("largest", value, on_step=False, on_epoch=True, reduce_fx="max", batch_size=5)
        return self.loss(batch)

    logger, _ = logged_fit(tmp_path, model_that(training_step=training_step), sizes(1, 2, 5))
    assert logger.values("rows") == [(2, (1 * 0 + 2 * 1 + 5 * 2) / 8)]
    assert logger.values("batches") == [(2, 1.0)]
    assert logger.values("largest") == [(2, 2.0)]


Named = namedtuple("Named", "name x")


@dataclass(slots=True)
class Fields:
    name: str
    x: Tensor


NAME = "a text that is longer than the batch"
NESTED = [
    lambda x: {"x": x, "index": 0},
    lambda x: [{"inner": (x, 3)}],
    lambda x: {"empty": None, "x": x},
    # text is no sample; Lightning counts its characters
    lambda x: {"name": NAME, "x": x},
    lambda x: ([NAME], NAME.encode(), x),
    lambda x: OrderedDict(name=NAME, x=x),
    lambda x: UserDict(name=NAME, x=x),
    lambda x: Named(NAME, x),
    lambda x: Fields(NAME, x),
    lambda x: UserList([NAME, x]),
]


@pytest.mark.parametrize("nest", NESTED)
def test_the_batch_size_is_found_in_nested_batches(tmp_path, nest):
    def training_step(self, batch, batch_idx):
        self.log("value", batch_idx, on_step=False, on_epoch=True)

    batches = Given(nest(torch.zeros(1, 4)), nest(torch.zeros(3, 4)))
    with pytest.warns(UserWarning, match="training_step returned None"):
        logger, _ = logged_fit(tmp_path, model_that(training_step=training_step), batches)
    assert logger.values("value") == [(1, 0.75)]


def test_a_batch_size_that_can_not_be_found_is_asked_for(tmp_path):
    class Model(LoggingModel):
        def training_step(self, batch, batch_idx):
            self.log("each", 1.0)  # needs none
            self.log("all", 1.0, on_epoch=True, on_step=False, **self.say)
            return self.layer.weight.sum()

    model = Model()
    model.say = {}
    with pytest.raises(MisconfigurationException, match=r"batch size.*batch_size=n"):
        logged_fit(tmp_path, model, Given(object()))
    model.say = {"batch_size": 2}
    logger, _ = logged_fit(tmp_path, model, Given(object()))
    assert logger.values("all") == [(0, 1.0)]


def test_sizes_that_disagree_are_told(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("value", 1.0, on_step=False, on_epoch=True)
        return self.layer.weight.sum()

    with pytest.warns(UserWarning, match="disagree about its size; 2 is taken"):
        logged_fit(tmp_path, model_that(training_step=training_step), Given((torch.zeros(2), torch.zeros(3))))


def test_the_same_name_twice_in_a_step_is_one_mean(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("value", 1.0, on_step=True, on_epoch=True)
        self.log("value", 3.0, on_step=True, on_epoch=True)
        return self.loss(batch)

    logger, _ = logged_fit(tmp_path, model_that(training_step=training_step), 1)
    assert logger.values("value_step") == [(0, 3.0)]
    assert logger.values("value_epoch") == [(0, 2.0)]


def test_the_same_name_with_other_arguments_is_refused(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("value", 1.0, on_epoch=bool(batch_idx), prog_bar=True)
        return self.loss(batch)

    with pytest.raises(MisconfigurationException, match="before: on_epoch=False, now: on_epoch=True"):
        logged_fit(tmp_path, model_that(training_step=training_step), 2)


def test_neither_step_nor_epoch_is_refused(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("value", 1.0, on_step=False, on_epoch=False)

    with pytest.raises(MisconfigurationException, match="neither on_step nor on_epoch"):
        logged_fit(tmp_path, model_that(training_step=training_step), 1)


def test_every_epoch_starts_anew(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("value", float(self.current_epoch), on_step=False, on_epoch=True)
        if self.current_epoch == 0:
            self.log("only_first", 1.0, on_step=False, on_epoch=True)
        return self.loss(batch)

    logger, trainer = logged_fit(tmp_path, model_that(training_step=training_step), 2, max_epochs=3)
    assert logger.values("value") == [(1, 0.0), (3, 1.0), (5, 2.0)]
    assert logger.values("only_first") == [(1, 1.0)]
    assert trainer.callback_metrics["only_first"] == 1.0  # the last that is known of it


@pytest.mark.parametrize(("function", "step"), [("fit", "training_step"), ("test", "test_step")])
def test_a_run_that_failed_leaves_nothing_in_the_next(tmp_path, function, step):
    fails = True

    def log_or_fail(self, batch, batch_idx):
        if fails and batch_idx == 2:
            raise RuntimeError("stopped")
        self.log("value", 100.0 if fails else 1.0, on_step=False, on_epoch=True)
        return self.loss(batch)

    model, trainer = model_that(**{step: log_or_fail}), quiet_trainer(tmp_path, max_epochs=1)
    with pytest.raises(RuntimeError, match="stopped"):
        getattr(trainer, function)(model, rows(4))
    fails = False
    getattr(trainer, function)(model, rows(4))
    assert trainer.callback_metrics["value"] == 1.0


def test_log_dict(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log_dict({"a": 1.0, "b": torch.tensor(2.0)}, prog_bar=True)
        return self.loss(batch)

    logger, trainer = logged_fit(tmp_path, model_that(training_step=training_step), 1)
    assert logger.logged == [(0, {"a": 1.0, "b": 2.0, "epoch": 0})]
    assert trainer.progress_bar_metrics == {"a": 1.0, "b": 2.0}


def test_log_dict_passes_on_every_option(monkeypatch):
    """By name, and in the order of ``log``."""
    options = {name: object() for name in inspect.signature(pl.LightningModule.log).parameters}
    del options["self"], options["name"], options["value"]
    seen = {}
    monkeypatch.setattr(pl.LightningModule, "log", recorded(pl.LightningModule.log, seen))
    for args, named in [((), options), (tuple(options.values()), {})]:
        seen.clear()
        pl.LightningModule().log_dict({"a": 1.0}, *args, **named)
        assert {name: seen[name] for name in options} == options
        assert (seen["name"], seen["value"]) == ("a", 1.0)


def recorded(function, seen):
    signature = inspect.signature(function)
    return lambda *args, **kwargs: seen.update(signature.bind(*args, **kwargs).arguments)


def test_a_mapping_is_logged_value_by_value(tmp_path):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("losses", {"all": loss, "parts": {"first": batch_idx, "second": 2.0}}, on_epoch=True)
        return loss

    logger, trainer = logged_fit(tmp_path, model_that(training_step=training_step), 3)
    assert [value for _, value in logger.values("losses/parts/first_step")] == [0, 1, 2]
    assert [value for _, value in logger.values("losses/parts/first_epoch")] == [1]
    assert trainer.callback_metrics["losses/parts/second"] == 2
    assert "losses/all_epoch" in trainer.callback_metrics

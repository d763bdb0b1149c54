"""``self.log``: what it takes, how it reduces, where each value goes and when."""

import pytest
import torch
import torchmetrics
from recording import Given, LoggingModel, RecordingLogger, ValidatedModel, quiet_trainer, rows

import leyden as pl
from leyden.utilities.exceptions import MisconfigurationException


def fit(tmp_path, model, batches=4, validation=None, **options):
    """Train with a recording logger; returns it and the Trainer."""
    logger = options.pop("logger", None) or RecordingLogger()
    trainer = quiet_trainer(tmp_path, logger=logger, log_every_n_steps=1, **options)
    trainer.fit(model, batches if not isinstance(batches, int) else rows(batches), validation)
    return logger, trainer


def model_that(**hooks):
    """A model with these methods instead of its own; it logs nothing else."""

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    return type("Model", (LoggingModel,), {"training_step": training_step, **hooks})()


# -- where and when -----------------------------------------------------------------------------------------


def test_a_training_step_logs_every_step_and_an_epoch_hook_every_epoch(tmp_path):
    class Model(LoggingModel):
        def training_step(self, batch, batch_idx):
            self.log("index", batch_idx)
            return self.loss(batch)

        def on_train_epoch_end(self):
            self.log("epochs", self.current_epoch)

    logger, _ = fit(tmp_path, Model(), 3, max_epochs=2)
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

    logger, trainer = fit(tmp_path, model_that(training_step=training_step), 3)
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
    logger, trainer = fit(tmp_path, model, 3, rows(2), num_sanity_val_steps=0)
    assert [value for _, value in logger.values("value")] == [2.0] * (3 if hook in STEP_HOOKS else 1)
    assert trainer.callback_metrics["value"] == 2.0


@pytest.mark.parametrize("hook", FORBIDDEN_HOOKS)
def test_a_callback_may_log_where_it_has_a_meaning_only(tmp_path, hook):
    def log(self, trainer, pl_module, *args):
        pl_module.log("value", 1.0)

    callback = type("Logs", (pl.Callback,), {hook: log})()
    with pytest.raises(MisconfigurationException, match=r"self\.log\('value'"):
        fit(tmp_path, ValidatedModel(), 1, rows(1), callbacks=[callback])


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end", "on_validation_epoch_end"])
def test_callbacks_log_through_the_module(tmp_path, hook):
    def log(self, trainer, pl_module, *args):
        if not trainer.sanity_checking:
            pl_module.log("mine", 3.0)

    logger, _ = fit(tmp_path, ValidatedModel(), 1, rows(1), callbacks=[type("Logs", (pl.Callback,), {hook: log})()])
    assert logger.values("mine") == [(0, 3.0)]


def test_prediction_logs_nothing_and_says_so(tmp_path):
    model = model_that(predict_step=lambda self, batch, batch_idx: self.log("value", 1.0))
    with pytest.raises(MisconfigurationException, match=r"self\.log\('value'"):
        quiet_trainer(tmp_path).predict(model, rows(1))


@pytest.mark.parametrize("hook", EPOCH_HOOKS)
def test_an_epoch_hook_has_no_steps(tmp_path, hook):
    model = model_that(**{hook: lambda self, *args: self.log("value", 1.0, on_step=True)})
    with pytest.raises(MisconfigurationException, match=f"on_step=True.*{hook}"):
        fit(tmp_path, model, 1)


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

    logger, _ = fit(tmp_path, model_that(training_step=training_step), 2)
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

    logger, _ = fit(tmp_path, model_that(training_step=training_step), 1, callbacks=[Look()])
    assert logger.logged == [(0, {"logger": 2.0, "epoch": 0})]
    assert seen["bar"] == {"bar": 1.0}
    assert type(seen["bar"]["bar"]) is float
    assert seen["logged"] == {"logger": 2.0}
    assert seen["callbacks"] == {"bar": 1.0, "logger": 2.0, "neither": 3.0}
    assert all(isinstance(value, torch.Tensor) for value in seen["callbacks"].values())


def test_several_loggers_get_everything_and_are_ended(tmp_path):
    first, second = RecordingLogger(), RecordingLogger()
    fit(tmp_path, LoggingModel(), 2, logger=[first, second])
    assert first.logged == second.logged != []
    assert first.ended == second.ended == ["success"]


def test_the_sanity_check_leaves_nothing(tmp_path):
    class Model(ValidatedModel):
        def on_train_start(self):
            self.seen = dict(self.trainer.callback_metrics)

    model = Model()
    logger, _ = fit(tmp_path, model, 1, rows(2), check_val_every_n_epoch=2, max_epochs=1)
    assert model.seen == {}
    assert not logger.values("val_loss")


def test_fast_dev_run_logs_nothing(tmp_path):
    logger, trainer = fit(tmp_path, ValidatedModel(), 2, rows(2), fast_dev_run=True)
    assert logger.logged == []
    assert trainer.callback_metrics["val_loss"] > 0


def test_no_value_is_read_before_it_is_shown(tmp_path, monkeypatch):
    """Reading a tensor's value waits for the device."""
    read, batches = [], Given(*rows(8))
    original = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda self: read.append(1) or original(self))

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("constant", 1.0)
        return loss

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            self.read = list(read)

    look = Look()
    logger = RecordingLogger()
    trainer = quiet_trainer(tmp_path, logger=logger, log_every_n_steps=8, callbacks=[look])
    trainer.fit(model_that(training_step=training_step), batches)
    assert look.read == []
    assert len(read) == 3  # loss_step and constant once, loss_epoch once


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

    logger, _ = fit(tmp_path, model_that(training_step=training_step), 2)
    assert logger.values("value_step") == [(0, expected), (1, expected)]
    assert logger.values("value_epoch") == [(1, expected)]


@pytest.mark.parametrize(
    "value", ["text", None, [1.0], {"a": 1.0}, torch.ones(2), object()], ids=lambda value: type(value).__name__
)
def test_what_is_no_number_is_refused(tmp_path, value):
    def training_step(self, batch, batch_idx):
        self.log("value", value)
        return self.loss(batch)

    with pytest.raises(ValueError, match=r"self\.log\('value'"):
        fit(tmp_path, model_that(training_step=training_step), 1)


def test_a_loss_that_is_changed_in_place_after_logging(tmp_path):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch) * 0 + batch_idx
        self.log("loss", loss, on_step=True, on_epoch=True)
        loss += 100
        constant = torch.ones(())
        self.log("constant", constant, reduce_fx="sum", on_step=True, on_epoch=True)
        constant.zero_()
        return loss

    logger, _ = fit(tmp_path, model_that(training_step=training_step), 3)
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
    fit(tmp_path, model_that(training_step=training_step), 1, callbacks=[look])
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

    logger, _ = fit(tmp_path, model_that(training_step=training_step), 4, max_epochs=2)
    assert logger.values("value") == [(3, expected), (7, expected)]


def test_an_unknown_reduction_is_refused(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("value", 1.0, on_epoch=True, reduce_fx="median")

    with pytest.raises(MisconfigurationException, match="reduce_fx='median'"):
        fit(tmp_path, model_that(training_step=training_step), 1)


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

    logger, _ = fit(tmp_path, model_that(training_step=training_step), sizes(1, 2, 5))
    assert logger.values("rows") == [(2, (1 * 0 + 2 * 1 + 5 * 2) / 8)]
    assert logger.values("batches") == [(2, 1.0)]
    assert logger.values("largest") == [(2, 2.0)]


NESTED = [
    lambda x: {"x": x, "index": 0},
    lambda x: [{"inner": (x, 3)}],
    lambda x: {"empty": None, "x": x},
]


@pytest.mark.parametrize("nest", NESTED)
def test_the_batch_size_is_found_in_nested_batches(tmp_path, nest):
    def training_step(self, batch, batch_idx):
        self.log("value", batch_idx, on_step=False, on_epoch=True)

    batches = Given(nest(torch.zeros(1, 4)), nest(torch.zeros(3, 4)))
    with pytest.warns(UserWarning, match="training_step returned None"):
        logger, _ = fit(tmp_path, model_that(training_step=training_step), batches)
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
        fit(tmp_path, model, Given(object()))
    model.say = {"batch_size": 2}
    logger, _ = fit(tmp_path, model, Given(object()))
    assert logger.values("all") == [(0, 1.0)]


def test_sizes_that_disagree_are_told(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("value", 1.0, on_step=False, on_epoch=True)
        return self.layer.weight.sum()

    with pytest.warns(UserWarning, match="disagree about its size; 2"):
        fit(tmp_path, model_that(training_step=training_step), Given((torch.zeros(2), torch.zeros(3))))


def test_the_same_name_twice_in_a_step_is_one_mean(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("value", 1.0, on_step=True, on_epoch=True)
        self.log("value", 3.0, on_step=True, on_epoch=True)
        return self.loss(batch)

    logger, _ = fit(tmp_path, model_that(training_step=training_step), 1)
    assert logger.values("value_step") == [(0, 3.0)]
    assert logger.values("value_epoch") == [(0, 2.0)]


def test_the_same_name_with_other_arguments_is_refused(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("value", 1.0, on_epoch=bool(batch_idx), prog_bar=True)
        return self.loss(batch)

    with pytest.raises(MisconfigurationException, match="before: on_epoch=False, now: on_epoch=True"):
        fit(tmp_path, model_that(training_step=training_step), 2)


def test_neither_step_nor_epoch_is_refused(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("value", 1.0, on_step=False, on_epoch=False)

    with pytest.raises(MisconfigurationException, match="neither on_step nor on_epoch"):
        fit(tmp_path, model_that(training_step=training_step), 1)


def test_every_epoch_starts_anew(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("value", float(self.current_epoch), on_step=False, on_epoch=True)
        if self.current_epoch == 0:
            self.log("only_first", 1.0, on_step=False, on_epoch=True)
        return self.loss(batch)

    logger, trainer = fit(tmp_path, model_that(training_step=training_step), 2, max_epochs=3)
    assert logger.values("value") == [(1, 0.0), (3, 1.0), (5, 2.0)]
    assert logger.values("only_first") == [(1, 1.0)]
    assert trainer.callback_metrics["only_first"] == 1.0  # the last that is known of it


def test_log_dict(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log_dict({"a": 1.0, "b": torch.tensor(2.0)}, prog_bar=True)
        return self.loss(batch)

    logger, trainer = fit(tmp_path, model_that(training_step=training_step), 1)
    assert logger.logged == [(0, {"a": 1.0, "b": 2.0, "epoch": 0})]
    assert trainer.progress_bar_metrics == {"a": 1.0, "b": 2.0}


# -- evaluation ---------------------------------------------------------------------------------------------


class Silent(LoggingModel):
    def training_step(self, batch, batch_idx):
        return self.loss(batch)


class TwoLoaders(Silent):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("value", batch_idx + 10.0 * dataloader_idx)
        self.log(f"own_{dataloader_idx}", 1.0, add_dataloader_idx=False)

    def on_validation_epoch_end(self):
        self.log("overall", 5.0)

    test_step = validation_step


def test_names_of_several_loaders(tmp_path):
    logger, trainer = fit(tmp_path, TwoLoaders(), 1, [rows(2), rows(3)])
    expected = {
        "value/dataloader_idx_0": 0.5, "value/dataloader_idx_1": 11.0, "own_0": 1.0, "own_1": 1.0, "overall": 5.0,
    }  # fmt: skip
    assert logger.logged == [(0, {**expected, "epoch": 0})]
    assert {name: value.item() for name, value in trainer.callback_metrics.items()} == expected


def test_results_of_several_loaders_are_returned_one_by_one(tmp_path):
    results = quiet_trainer(tmp_path).test(TwoLoaders(), [rows(2), rows(3)], verbose=False)
    assert results == [
        {"value/dataloader_idx_0": 0.5, "own_0": 1.0},
        {"value/dataloader_idx_1": 11.0, "own_1": 1.0},
    ]


def test_the_users_own_dataloader_idx_is_refused(tmp_path):
    model = model_that(test_step=lambda self, batch, batch_idx: self.log("x/dataloader_idx_0", 1.0))
    with pytest.raises(MisconfigurationException, match="dataloader_idx"):
        quiet_trainer(tmp_path).test(model, rows(1))


def test_evaluation_steps_are_logged_under_the_number_of_their_batch(tmp_path):
    class Model(Silent):
        def validation_step(self, batch, batch_idx):
            self.log("value", float(batch_idx), on_step=True, on_epoch=True)

    logger, trainer = fit(tmp_path, Model(), 2, rows(3), max_epochs=2)
    assert logger.values("value_step") == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 0.0), (4, 1.0), (5, 2.0)]
    assert logger.values("value_epoch") == [(1, 1.0), (3, 1.0)]
    assert trainer.callback_metrics.keys() == {"value", "value_epoch"}


def test_validation_does_not_disturb_the_running_training_epoch(tmp_path):
    class Model(ValidatedModel):
        def training_step(self, batch, batch_idx):
            self.log("mean", float(batch_idx), on_step=False, on_epoch=True)
            return self.loss(batch)

        def on_validation_end(self):
            self.values = dict(self.trainer.callback_metrics)

    model = Model()
    logger, _ = fit(tmp_path, model, 4, rows(1), val_check_interval=1)
    assert logger.values("mean") == [(3, 1.5)]
    assert "val_loss" in model.values


# -- torchmetrics -------------------------------------------------------------------------------------------


class Measured(LoggingModel):
    """Logs a metric object; counts how often it is computed and reset."""

    def __init__(self):
        super().__init__()
        self.metric, self.other = torchmetrics.MeanMetric(), torchmetrics.MeanMetric()
        self.collection = torchmetrics.MetricCollection([torchmetrics.MeanMetric(), torchmetrics.MaxMetric()])

    def training_step(self, batch, batch_idx):
        self.metric(float(batch_idx))
        self.log("metric", self.metric, on_step=True, on_epoch=True)
        self.collection.update(float(batch_idx))
        self.log_dict(self.collection, on_step=False, on_epoch=True)
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.other.update(float(batch_idx))
        self.log("other", self.other)


def test_metric_objects_are_computed_by_epoch_and_reset(tmp_path):
    model = Measured()
    logger, trainer = fit(tmp_path, model, 3, rows(2), max_epochs=2)
    assert logger.values("metric_step") == [(i, float(i % 3)) for i in range(6)]
    assert logger.values("metric_epoch") == [(2, 1.0), (5, 1.0)]
    assert logger.values("MeanMetric") == [(2, 1.0), (5, 1.0)]
    assert logger.values("MaxMetric") == [(2, 2.0), (5, 2.0)]
    assert logger.values("other") == [(2, 0.5), (5, 0.5)]
    assert [model.metric.update_count, model.other.update_count] == [0, 0]
    assert trainer.callback_metrics["metric"] == 1.0


def test_a_metric_that_is_never_updated_is_named(tmp_path):
    def training_step(self, batch, batch_idx):
        self.log("mine", self.metric, on_step=False, on_epoch=True)
        return self.loss(batch)

    model = model_that(training_step=training_step)
    model.metric = torchmetrics.MeanMetric()
    with pytest.raises(MisconfigurationException, match="'mine' was never updated"):
        fit(tmp_path, model, 1)


def test_one_metric_under_two_names_is_refused(tmp_path):
    def training_step(self, batch, batch_idx):
        self.metric.update(1.0)
        self.log("one", self.metric)
        self.log("two", self.metric)

    model = model_that(training_step=training_step)
    model.metric = torchmetrics.MeanMetric()
    with pytest.raises(MisconfigurationException, match=r"'one' and as 'two'"):
        fit(tmp_path, model, 1)


def test_a_metric_that_the_module_does_not_have_is_refused_unless_named(tmp_path):
    metric = torchmetrics.MeanMetric()

    def training_step(self, batch, batch_idx):
        metric.update(1.0)
        self.log("mine", metric, on_step=False, on_epoch=True, **self.arguments)
        return self.loss(batch)

    model = model_that(training_step=training_step)
    model.arguments = {}
    with pytest.raises(MisconfigurationException, match="no attribute of the LightningModule"):
        fit(tmp_path, model, 1)
    metric.reset()
    model.arguments = {"metric_attribute": "outside"}
    logger, _ = fit(tmp_path, model, 2)
    assert logger.values("mine") == [(1, 1.0)]

"""``self.log`` in evaluation, and of torchmetrics objects."""

import pytest
import torchmetrics
from recording import (
    LoggingModel,
    ValidatedModel,
    logged_fit,
    model_that,
    quiet_trainer,
    rows,
)

from leyden.utilities.exceptions import MisconfigurationException

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
    logger, trainer = logged_fit(tmp_path, TwoLoaders(), 1, [rows(2), rows(3)])
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

    logger, trainer = logged_fit(tmp_path, Model(), 2, rows(3), max_epochs=2)
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
    logger, _ = logged_fit(tmp_path, model, 4, rows(1), val_check_interval=1)
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
    logger, trainer = logged_fit(tmp_path, model, 3, rows(2), max_epochs=2)
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
        logged_fit(tmp_path, model, 1)


def test_one_metric_under_two_names_is_refused(tmp_path):
    def training_step(self, batch, batch_idx):
        self.metric.update(1.0)
        self.log("one", self.metric)
        self.log("two", self.metric)

    model = model_that(training_step=training_step)
    model.metric = torchmetrics.MeanMetric()
    with pytest.raises(MisconfigurationException, match=r"'one' and as 'two'"):
        logged_fit(tmp_path, model, 1)


def test_a_metric_that_the_module_does_not_have_is_refused_unless_named(tmp_path):
    metric = torchmetrics.MeanMetric()

    def training_step(self, batch, batch_idx):
        metric.update(1.0)
        self.log("mine", metric, on_step=False, on_epoch=True, **self.arguments)
        return self.loss(batch)

    model = model_that(training_step=training_step)
    model.arguments = {}
    with pytest.raises(MisconfigurationException, match="no attribute of the LightningModule"):
        logged_fit(tmp_path, model, 1)
    metric.reset()
    model.arguments = {"metric_attribute": "outside"}
    logger, _ = logged_fit(tmp_path, model, 2)
    assert logger.values("mine") == [(1, 1.0)]

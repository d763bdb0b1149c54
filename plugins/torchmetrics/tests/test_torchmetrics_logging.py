"""``self.log`` of metric objects."""

import pytest
import torch
import torchmetrics

from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.models import LoggingModel, logged_fit, model_that, rows
from leyden_testing.training import quiet_trainer


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
    with pytest.raises(MisconfigurationException, match="not an attribute of the LightningModule"):
        logged_fit(tmp_path, model, 1)
    metric.reset()
    model.arguments = {"metric_attribute": "outside"}
    logger, _ = logged_fit(tmp_path, model, 2)
    assert logger.values("mine") == [(1, 1.0)]


def test_metrics_of_several_loaders(tmp_path):
    class Several(LoggingModel):
        def __init__(self):
            super().__init__()
            self.means = torch.nn.ModuleList([torchmetrics.MeanMetric(), torchmetrics.MeanMetric()])

        def test_step(self, batch, batch_idx, dataloader_idx):
            self.means[dataloader_idx].update(batch_idx + 10.0 * dataloader_idx)
            self.log("mean", self.means[dataloader_idx])

    results = quiet_trainer(tmp_path).test(Several(), [rows(2), rows(3)], verbose=False)
    assert results == [{"mean/dataloader_idx_0": 0.5}, {"mean/dataloader_idx_1": 11.0}]


def test_one_metric_of_several_loaders_is_refused(tmp_path):
    class Shared(LoggingModel):
        def __init__(self):
            super().__init__()
            self.mean = torchmetrics.MeanMetric()

        def test_step(self, batch, batch_idx, dataloader_idx):
            self.mean.update(1.0)
            self.log("mean", self.mean)

    with pytest.raises(MisconfigurationException, match=r"'mean/dataloader_idx_0' and as 'mean/dataloader_idx_1'"):
        quiet_trainer(tmp_path).test(Shared(), [rows(1), rows(1)], verbose=False)


def test_a_number_under_the_name_of_a_metric_is_refused(tmp_path):
    def training_step(self, batch, batch_idx):
        self.metric.update(1.0)
        self.log("mine", self.metric if batch_idx == 0 else 1.0)
        return self.loss(batch)

    model = model_that(training_step=training_step)
    model.metric = torchmetrics.MeanMetric()
    with pytest.raises(ValueError, match=r"self\.log\('mine', …\) got 1\.0 of type float, but before it got"):
        logged_fit(tmp_path, model, 2)


class ByHand(LoggingModel):
    """Updates its metrics itself, and logs them at the end of an epoch.

    Args:
        fails: The stage whose third batch fails.
    """

    def __init__(self, fails):
        super().__init__()
        self.fails = fails
        self.trained, self.validated, self.ever = (torchmetrics.SumMetric() for _ in range(3))

    def count(self, stage, batch_idx, metric):
        if self.fails == stage and batch_idx == 2:
            raise ValueError("a broken sample")
        metric.update(1.0)
        self.ever.update(1.0)

    def training_step(self, batch, batch_idx):
        self.count("train", batch_idx, self.trained)
        return self.loss(batch)

    def on_train_epoch_end(self):
        self.log("trained", self.trained)

    def validation_step(self, batch, batch_idx):
        self.count("val", batch_idx, self.validated)

    def on_validation_epoch_end(self):
        self.log("validated", self.validated)


@pytest.mark.parametrize(("fails", "stage"), [("train", "fit"), ("val", "fit"), ("val", "validate")])
def test_a_run_that_fails_leaves_the_metrics_as_they_were(tmp_path, fails, stage):
    """pytorch-lightning leaves the failed run's batches in those that no step has logged."""
    model = ByHand(fails)
    model.ever.update(10.0)
    with pytest.raises(ValueError, match="a broken sample"):
        getattr(quiet_trainer(tmp_path), stage)(model, *[rows(3)] * (2 if stage == "fit" else 1))
    assert (model.trained.update_count, model.validated.update_count, model.ever.compute()) == (0, 0, 10)
    model.fails = None
    trainer = quiet_trainer(tmp_path, num_sanity_val_steps=0)
    trainer.fit(model, rows(3), rows(3))
    assert (trainer.callback_metrics["trained"], trainer.callback_metrics["validated"], model.ever.compute()) == (
        3,
        3,
        16,
    )

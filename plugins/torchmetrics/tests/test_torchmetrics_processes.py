"""Metrics with several processes: synchronised, also if a process has no sample, and saved for each process."""

import pytest
import torch
import torchmetrics

from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.ranks import on_ranks
from leyden_testing.reporting import Model, Validated, alone, loader, quiet
from leyden_testing.training import SaveAmid, quiet_trainer


def test_metrics_see_the_data_of_all(tmp_path):
    class Measured(Model):
        def __init__(self):
            super().__init__()
            self.rows = torchmetrics.SumMetric()

        def validation_step(self, batch, batch_idx):
            self.rows.update(batch[2])
            self.log("rows", self.rows)

    trainer, reporter = quiet(tmp_path)
    trainer.fit(Measured(), loader(4), loader(7))
    assert [rank["metrics"]["rows"] for rank in reporter.reports()] == [sum(range(7))] * 2


class Measured(Validated):
    """Logs metrics with every kind of state, and numbers between them."""

    def __init__(self):
        super().__init__()
        self.error = torchmetrics.MeanSquaredError()
        self.area = torchmetrics.classification.BinaryAUROC()  # collects lists of numbers and of integers
        both = [torchmetrics.classification.BinaryPrecision(), torchmetrics.classification.BinaryRecall()]
        self.both = torchmetrics.MetricCollection(both)  # both metrics share one state
        self.least = torchmetrics.MinMetric()

    def validation_step(self, batch, batch_idx):
        x, y, rows = batch
        output = self.layer(x)
        value = output.mean(1)
        self.log("mean", value.mean(), sync_dist=True)
        self.error(output, y)
        self.area(value.sigmoid(), rows % 2)
        self.both.update(-value, rows % 2)
        self.least(value)
        self.log("error", self.error)
        self.log("area", self.area, on_step=False, on_epoch=True)
        self.log_dict(self.both)
        self.log("least", self.least)
        self.log("sum", value.sum(), sync_dist=True, reduce_fx="sum")


@pytest.mark.filterwarnings("ignore:No positive samples|No negative samples")
@pytest.mark.parametrize("count", [2, 5])
def test_the_values_are_those_of_one_process(tmp_path, count):
    (expected,) = alone(tmp_path / "alone").validate(Measured(), loader(count, 1), verbose=False)
    trainer, reporter = quiet(tmp_path, devices=4)
    (found,) = trainer.validate(Measured(), loader(count, 1), verbose=False)
    assert found == {name: pytest.approx(value, abs=1e-6) for name, value in expected.items()}
    assert [rank["metrics"] for rank in reporter.reports("validate")] == [found] * 4


class Joining(torchmetrics.Metric):
    """A metric that collects a list that torchmetrics does not concatenate."""

    def __init__(self):
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx=None)

    def update(self, rows):
        self.rows.append(rows)

    def compute(self):
        return torch.cat(self.rows).sum()


class Unjoined(Validated):
    def __init__(self):
        super().__init__()
        self.rows = Joining()

    def validation_step(self, batch, batch_idx):
        self.rows.update(batch[2])
        self.log("rows", self.rows)


class Unowned(Validated):
    def __init__(self):
        super().__init__()
        self.held = [torchmetrics.SumMetric()]

    def validation_step(self, batch, batch_idx):
        self.held[0].update(1.0)
        self.log("rows", self.held[0], metric_attribute="held")


REFUSED = {
    Unjoined: "a metric that collects lists that can't be concatenated",
    Unowned: "a metric that is not an attribute of",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_needs_all_processes_is_refused(tmp_path, kind):
    trainer, _ = quiet(tmp_path)
    said = (
        rf"self\.log\('rows', …\): process 1 has not logged it.*, and {REFUSED[kind]}.* needs all processes; take fewer"
    )
    with pytest.raises(MisconfigurationException, match=said):
        trainer.validate(kind(), loader(1, 1), verbose=False)


class OwnRows(Model):
    """Prints each process's metric when training begins and at the end of the epoch."""

    def __init__(self):
        super().__init__()
        self.rows, self.total = torchmetrics.CatMetric(), torchmetrics.SumMetric()

    def on_train_start(self):
        own = self.rows.value if self.rows.update_count else []
        self.report = {"own": torch.cat([torch.atleast_1d(part) for part in own]).tolist() if own else []}

    def training_step(self, batch, batch_idx):
        self.rows.update(batch[2])
        self.total.update(batch[2])
        self.log("total", self.total, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self):
        self.report["all"] = sorted(self.rows.compute().tolist())


def test_a_run_that_goes_on_has_each_process_s_metrics(tmp_path):
    path = tmp_path / "two.ckpt"
    trainer, _ = quiet(tmp_path, callbacks=[SaveAmid(path, step=2)])
    trainer.fit(OwnRows(), loader(12, shuffle=True))
    trainer, reporter = quiet(tmp_path / "rest")
    trainer.fit(OwnRows(), loader(12, shuffle=True), ckpt_path=path)
    ranks = reporter.reports()
    own = [rank["own"] for rank in ranks]
    assert [len(rows) for rows in own] == [4, 4]
    assert len({*own[0], *own[1]}) == 8
    assert [rank["all"] for rank in ranks] == [list(map(float, range(12)))] * 2
    assert [rank["metrics"]["total"] for rank in ranks] == [sum(range(12))] * 2


class Summed(Validated):
    """Sums rows in metrics that are logged, that are computed by hand, and that the module does not own."""

    def __init__(self):
        super().__init__()
        self.logged, self.by_hand = torchmetrics.SumMetric(), torchmetrics.SumMetric()
        self.elsewhere = [torchmetrics.SumMetric()]

    def on_validation_epoch_start(self):
        self.by_hand.reset()

    def validation_step(self, batch, batch_idx):
        for metric in (self.logged, self.by_hand, *self.elsewhere):
            metric.update(batch[2])
        self.log("logged", self.logged)
        self.log("elsewhere", self.elsewhere[0], metric_attribute="elsewhere")

    def on_validation_epoch_end(self):
        self.log("by_hand", self.by_hand.compute())


def fit_and_validate_alone(root):
    """A run of two processes, one of each process by itself, one that fails, and another of both."""
    model = Summed()
    together = quiet_trainer(root, devices=2, strategy="ddp")
    together.fit(model, loader(4), loader(4))
    alone = quiet_trainer(root, devices=1, strategy="single_device")
    own = loader(4 + 2 * together.global_rank)  # so that one process has more batches
    (found,) = alone.validate(model, own, verbose=False)
    model.validation_step = None
    with pytest.raises(TypeError):
        alone.validate(model, own, verbose=False)
    del model.validation_step
    (again,) = together.validate(model, loader(4), verbose=False)
    return found, again


def test_a_run_of_one_process_exchanges_nothing_after_one_of_several(tmp_path):
    for rank, (found, again) in enumerate(on_ranks(2, fit_and_validate_alone, tmp_path)):
        assert found == dict.fromkeys(["logged", "elsewhere", "by_hand"], sum(range(4 + 2 * rank)))
        assert again == dict.fromkeys(["logged", "elsewhere", "by_hand"], sum(range(4)))

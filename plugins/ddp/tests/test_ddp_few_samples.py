"""Evaluation and prediction by processes of which some have no sample: the values are those of all samples."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

import leyden as pl
from leyden.callbacks import BasePredictionWriter, EarlyStopping, ModelCheckpoint
from leyden.plugins import Record
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.reporting import Model, Validated, alone, loader, quiet


class Logging(Validated):
    """Logs in every way, some names in one batch only."""

    def __init__(self):
        super().__init__()
        self.report = {"hooks": []}

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        x, _, rows = batch
        self.seen["val"].append(rows.tolist())
        value = self.layer(x).mean(1)
        if rows[0] % 2:
            self.log("odd", value.mean(), sync_dist=True)
        for name in ("mean", "sum", "min", "max"):
            self.log(name, value.mean(), sync_dist=True, reduce_fx=name)
        self.log("weighted", value.mean(), sync_dist=True, batch_size=3)
        if not rows[0] % 2:
            self.log("even", value.mean().double(), sync_dist=True)

    def on_validation_epoch_end(self):
        self.report["hooks"].append("epoch_end")
        self.log("ranks", 1.0, sync_dist=True, reduce_fx="sum")

    def on_validation_start(self):
        self.report["hooks"].append("start")


def numbers(results):
    return [
        {name: pytest.approx(value, abs=1e-6) for name, value in result.items() if name != "ranks"}
        for result in results
    ]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_values_are_those_of_one_process(tmp_path, count):
    (expected,) = alone(tmp_path / "alone").validate(Logging(), loader(count, 1), verbose=False)
    trainer, reporter = quiet(tmp_path, devices=4)
    (found,) = trainer.validate(Logging(), loader(count, 1), verbose=False)
    assert numbers([expected]) == [{name: value for name, value in found.items() if name != "ranks"}]
    assert found["ranks"] == 4
    ranks = reporter.reports("validate")
    assert [rank["metrics"] for rank in ranks] == [found] * 4
    assert [rank["hooks"] for rank in ranks] == [["start", "epoch_end"]] * 4
    assert sorted(row for rank in ranks for batch in rank["seen"]["val"] for row in batch) == list(range(count))


def test_some_of_several_loaders_are_short(tmp_path):
    def loaders():
        return [loader(7, 1), loader(0, 1), loader(2, 1)]

    expected = alone(tmp_path / "alone").validate(Several(), loaders(), verbose=False)
    trainer, _ = quiet(tmp_path, devices=3)
    found = trainer.validate(Several(), loaders(), verbose=False)
    assert [len(result) for result in found] == [2, 1, 2]
    assert numbers(expected) == [{k: v for k, v in result.items() if k != "ranks"} for result in found]


class Several(Validated):
    def validation_step(self, batch, batch_idx, dataloader_idx):
        self.log("loss", self.loss(batch, "val"), sync_dist=True)

    def on_validation_epoch_end(self):
        self.log("ranks", 1.0, sync_dist=True, reduce_fx="sum")


def test_a_function_of_the_users_reduces_what_there_is(tmp_path):
    class Spread(Validated):
        def validation_step(self, batch, batch_idx):
            row = float(batch[2])
            self.log("spread", row, sync_dist=True, reduce_fx=lambda rows: rows.max() - rows.min() + 5)

    trainer, reporter = quiet(tmp_path, devices=4)
    (found,) = trainer.validate(Spread(), loader(3, 1), verbose=False)
    assert found == {"spread": 5}  # the mean over the processes that have a row
    assert all(rank["metrics"] == found for rank in reporter.reports("validate"))


class Parts(IterableDataset):
    """Rows of which the last process has all."""

    def __iter__(self):
        count = 3 if torch.distributed.get_rank() == torch.distributed.get_world_size() - 1 else 0
        return ((torch.ones(4), torch.ones(2), torch.tensor(row)) for row in range(count))


class SizedParts(Parts):
    def __len__(self):
        return 3 if torch.distributed.get_rank() == torch.distributed.get_world_size() - 1 else 0


@pytest.mark.parametrize("dataset", [Parts, SizedParts])
def test_datasets_that_divide_themselves_may_leave_out_a_process(tmp_path, dataset):
    class Row(Validated):
        def validation_step(self, batch, batch_idx):
            self.log("row", float(batch[2]), sync_dist=True)

        test_step = validation_step

    trainer, reporter = quiet(tmp_path)
    for run in (trainer.validate, trainer.test):
        assert run(Row(), DataLoader(dataset(), 1), verbose=False) == [{"row": 1.0}]
    assert [rank["metrics"]["row"] for rank in reporter.reports("test")] == [1.0, 1.0]


def test_nothing_at_all_is_said_once_and_ends(tmp_path):
    with pytest.warns(UserWarning, match="val_dataloaders that were passed gave loaders of no batches"):
        results = alone(tmp_path).validate(Validated(), loader(0, 1), verbose=False)
    assert results == []
    trainer, _ = quiet(tmp_path)
    assert trainer.validate(Silent(), loader(0, 1), verbose=False) == []


class Silent(Validated):
    def setup(self, stage):
        import warnings

        warnings.filterwarnings("ignore", "There is nothing to do")


class Writing(BasePredictionWriter):
    def __init__(self, directory):
        super().__init__("batch_and_epoch")
        self.directory = directory

    def write_on_batch_end(self, trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx):
        (self.directory / f"row-{int(prediction)}").write_text(str(batch_indices))

    def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
        (self.directory / f"epoch-{trainer.global_rank}").write_text(str((len(predictions), batch_indices)))


def test_each_sample_is_predicted_once(tmp_path):
    trainer, _ = quiet(tmp_path, devices=4, callbacks=[Writing(tmp_path)])
    assert trainer.predict(Model(), loader(3)) == [torch.tensor([0])]
    assert sorted(path.name for path in tmp_path.glob("row-*")) == ["row-0", "row-1", "row-2"]
    assert [(tmp_path / f"epoch-{rank}").read_text() for rank in range(4)] == [
        "(1, [[[0]]])", "(1, [[[1]]])", "(1, [[[2]]])", "(0, [[]])",
    ]  # fmt: skip


def test_a_fit_is_validated_by_fewer_samples_than_processes(tmp_path):
    saving = ModelCheckpoint(tmp_path / "saved", monitor="val_loss", filename="{val_loss:.4f}")
    callbacks = [saving, EarlyStopping("val_loss", patience=0, mode="max")]
    trainer, reporter = quiet(
        tmp_path, devices=3, max_epochs=4, callbacks=callbacks, enable_checkpointing=True, num_sanity_val_steps=2
    )
    together = Validated()
    trainer.fit(together, loader(12), loader(1))
    assert trainer.current_epoch == 2  # in which the loss was no greater
    ranks = reporter.reports()
    assert len({rank["metrics"]["val_loss"] for rank in ranks}) == 1
    (single,) = alone(tmp_path / "alone").validate(together, loader(1), verbose=False)
    assert trainer.callback_metrics["val_loss"] == pytest.approx(single["val_loss"])
    assert f"val_loss={single['val_loss']:.4f}" in saving.best_model_path


class Stepwise(Validated):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch, "val"), on_step=True, on_epoch=True, sync_dist=True)


class Grouped(Validated):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch, "val"), sync_dist=True, sync_dist_group=torch.distributed.group.WORLD)


class Tally:
    """What a library counts with, by process."""

    def __init__(self):
        self.total = 0


class TallyRecord(Record):
    """Sums the tallies of all processes, also of one that has counted nothing; not those of an owner."""

    total = 0

    def update(self, value, batch_size, counts=True):
        self.total, self.owned = value.total, hasattr(value, "owner")

    def step_value(self):
        return None

    def reduce_epoch(self):
        return self.strategy.reduce(torch.tensor(float(self.total)), "sum")

    def outline(self):
        return "a tally with an owner needs all processes" if self.owned else {"total": -1}

    def take_part(self, outline):
        self.total = outline["total"]

    def state_dict(self):
        return None

    def load_state_dict(self, state):
        raise NotImplementedError


class Tallied(Validated):
    def __init__(self):
        super().__init__()
        self.tally = Tally()

    def validation_step(self, batch, batch_idx):
        self.tally.total += 10
        self.log("tally", self.tally)


class Owned(Tallied):
    def __init__(self):
        super().__init__()
        self.tally.owner = 1


@pytest.fixture
def tallies(monkeypatch):
    """A plugin that logs tallies."""
    library = ModuleType("tally_records")
    library.TallyRecord = TallyRecord
    monkeypatch.setitem(sys.modules, "tally_records", library)
    component = pl.Component("record", f"{__name__}.Tally", "tally_records:TallyRecord")
    return SimpleNamespace(leyden_components=pl.hookimpl(lambda: [component]))


def test_an_object_of_a_library_is_reduced_with_processes_that_have_not_logged_it(tmp_path, tallies):
    trainer, reporter = quiet(tmp_path, devices=3, plugins=[tallies])
    assert trainer.validate(Tallied(), loader(2, 1), verbose=False) == [{"tally": 19}]
    assert [rank["metrics"] for rank in reporter.reports("validate")] == [{"tally": 19}] * 3


REFUSED = {
    Stepwise: r"with on_step=True and sync_dist=True needs all processes .* they have 1, 0 batches",
    Grouped: r"self.log\('val_loss', …\): process 1 has not logged it.* leave sync_dist_group out",
    Owned: r"self.log\('tally', …\): process 1 has not logged it.* a tally with an owner needs all processes; take",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_needs_all_processes_is_refused(tmp_path, tallies, kind):
    trainer, _ = quiet(tmp_path, plugins=[tallies])
    with pytest.raises(MisconfigurationException, match=REFUSED[kind]):
        trainer.validate(kind(), loader(1, 1), verbose=False)


def test_a_process_without_samples_waits_for_one_that_fails(tmp_path):
    class Failing(Validated):
        def validation_step(self, batch, batch_idx):
            raise ZeroDivisionError("in the only batch")

    trainer, _ = quiet(tmp_path, devices=3)
    with pytest.raises(ZeroDivisionError, match="in the only batch"):
        trainer.validate(Failing(), loader(1, 1), verbose=False)


def test_a_callback_reads_metrics_where_there_were_no_samples(tmp_path):
    class Reading(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            pl_module.report = {"read": float(trainer.callback_metrics["val_loss"])}

    trainer, reporter = quiet(tmp_path, callbacks=[Reading()])
    (found,) = trainer.validate(Validated(), loader(1), verbose=False)
    assert [rank["read"] for rank in reporter.reports("validate")] == [found["val_loss"]] * 2

"""What decides the course of a run is decided once for all ranks: names, values, weights, the order of samples."""

import pytest
import torch

import leyden as pl
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.reporting import Model, Validated, loader, quiet

BOTH = {"one": 1.0, "ten": 10.0, "hundred": 100.0}


class Shuffled(Validated):
    """Logs everywhere with names in another order on each rank, and one that only rank 1 has."""

    def log_all(self, where, values=BOTH):
        names = list(values)[:: -1 if self.global_rank else 1]
        for name in names:
            self.log(f"{where}/{name}", values[name], sync_dist=True, on_step=False, on_epoch=True)
        if self.global_rank:
            self.log(f"{where}/here", 5.0, sync_dist=True, on_step=False, on_epoch=True)

    def training_step(self, batch, batch_idx):
        self.log_all("train")
        return self.loss(batch, "train")

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log_all("val")

    def on_validation_epoch_end(self):
        self.log_all("val_end")

    def on_train_epoch_end(self):
        self.log_all("end")


EXPECTED = {**BOTH, "here": 5.0}


def test_values_of_an_epoch_go_by_their_names(tmp_path):
    trainer, reporter = quiet(tmp_path, max_epochs=2)
    trainer.fit(Shuffled(), loader(8), [loader(4), loader(4)])
    loaders = [f"val/{name}/dataloader_idx_{i}" for name in EXPECTED for i in (0, 1)]
    places = [f"{where}/{name}" for where in ("train", "val_end", "end") for name in EXPECTED]
    expected = {name: EXPECTED[name.split("/")[1]] for name in loaders + places}
    assert [report["metrics"] for report in reporter.reports()] == [expected] * 2


def test_values_that_some_ranks_lack_are_those_of_the_others(tmp_path):
    class Parts(Validated):
        def validation_step(self, batch, batch_idx):
            if self.global_rank != 1:
                for name in ("mean", "sum", "min", "max"):
                    self.log(name, 1.0 + self.global_rank, sync_dist=True, reduce_fx=name, batch_size=1)

    trainer, reporter = quiet(tmp_path, devices=3)
    trainer.validate(Parts(), loader(6), verbose=False)
    expected = {"mean": 2.0, "sum": 4.0, "min": 1.0, "max": 3.0}
    assert [report["metrics"] for report in reporter.reports("validate")] == [expected] * 3


@pytest.mark.parametrize("reduce_fx", ["mean", "max"])
def test_values_of_a_step_with_names_in_another_order_are_refused(tmp_path, reduce_fx):
    class InStep(Model):
        def training_step(self, batch, batch_idx):
            for name in ["loss", *(["a", "b"] if self.global_rank else ["b", "a"])]:
                self.log(name, 1.0, sync_dist=True, reduce_fx=reduce_fx)
            return self.loss(batch, "train")

    lists = rf"rank 0: loss \({reduce_fx}\), b \({reduce_fx}\); rank 1: loss \({reduce_fx}\), a \({reduce_fx}\)"
    with pytest.raises(MisconfigurationException, match=rf"do not log the same names in the same order.*{lists}"):
        quiet(tmp_path)[0].fit(InStep(), loader(4))


def test_values_of_a_step_in_a_group_with_other_names_are_refused(tmp_path):
    class Grouped(Model):
        def test_step(self, batch, batch_idx):
            group = torch.distributed.group.WORLD
            self.log(f"of_{self.global_rank}", 1.0, on_step=True, sync_dist=True, sync_dist_group=group)

    with pytest.raises(MisconfigurationException, match=r"rank 0: of_0 \(mean\); rank 1: of_1 \(mean\)"):
        quiet(tmp_path)[0].test(Grouped(), loader(4), verbose=False)


class OwnValue(Validated):
    """Each rank logs a value of its own, which falls on one and rises on the other; rank 0 alone logs "alone"."""

    def __init__(self):
        super().__init__()
        self.report = {"rates": []}

    def validation_step(self, batch, batch_idx):
        self.log("score", float([[3, 2, 1, 1], [1, 2, 3, 0]][self.global_rank][self.current_epoch]))
        if self.global_rank == 0:
            self.log("alone", 1.0 + self.current_epoch % 2, rank_zero_only=True)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": schedule, "monitor": "score"}

    def on_fit_end(self):
        saving = self.trainer.checkpoint_callbacks
        self.report["best"] = [each.best_model_path for each in saving]
        self.report["scores"] = [float(each.best_model_score) for each in saving]
        self.report["waited"] = self.trainer.early_stopping_callback.wait_count
        self.report["rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]


def test_one_value_decides_on_all_ranks_and_is_said_to_differ_once(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("leyden_ddp.logged.rank_zero_warn", said.append)
    saving = [ModelCheckpoint(tmp_path / name, monitor=name, filename="{epoch}") for name in ("score", "alone")]
    model = OwnValue()
    model.report["said"] = said
    trainer, reporter = quiet(
        tmp_path, max_epochs=4, callbacks=[*saving, EarlyStopping("score", patience=2)], enable_checkpointing=True,
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, loader(4), loader(4))
    ranks = reporter.reports()
    for report in ranks:
        assert report["best"] == [str(tmp_path / "score" / "epoch=2.ckpt"), str(tmp_path / "alone" / "epoch=0.ckpt")]
        assert report["scores"] == [1.0, 1.0]
        assert report["waited"] == 1
        assert report["rate"] == 0.5
    (sentence,) = ranks[0]["said"]
    assert "'score' is monitored and differs between the ranks: rank 0 has 3 and rank 1 1." in sentence
    assert "self.log('score', …, sync_dist=True)" in sentence
    assert ranks[0]["weights"] == ranks[1]["weights"]


def test_a_metric_that_rank_zero_lacks_is_missing_on_all(tmp_path):
    class Elsewhere(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.global_rank == 1:
                self.log("score", 1.0)

    with pytest.raises(RuntimeError, match="EarlyStopping monitors 'score', which was not logged"):
        quiet(tmp_path, callbacks=[Elsewhere(), EarlyStopping("score")])[0].fit(Model(), loader(4))

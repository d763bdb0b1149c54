"""What decides the course of a run is decided once for all ranks: names, values, weights, the order of samples."""

import os
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, SubsetRandomSampler

import leyden as pl
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.reporting import Model, Validated, loader, quiet
from leyden_testing.training import same_weights

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


@pytest.mark.parametrize("apart_at", [0, 1, 120])
def test_names_are_looked_at_later_where_the_host_would_wait_for_a_device(tmp_path, monkeypatch, apart_at):
    monkeypatch.setattr("leyden_ddp.logged._is_host", lambda device: False)

    class Waiting(Model):
        def training_step(self, batch, batch_idx):
            for name in ["b", "a"] if self.global_rank and batch_idx == apart_at else ["a", "b"]:
                self.log(name, float(name == "a"), sync_dist=True)
            self.report = {"steps": batch_idx}
            return self.loss(batch, "train")

    trainer, reporter = quiet(tmp_path)
    if apart_at < 100:
        with pytest.raises(MisconfigurationException, match="do not log the same names in the same order"):
            trainer.fit(Waiting(), loader(400))
    else:
        trainer.fit(Waiting(), loader(400))
        assert reporter.reports()[0]["metrics"] == {"a": 1.0, "b": 0.0}


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


class Apart(Validated):
    """Its weights, and its buffers of all types, are others on each rank; it has one of no elements too."""

    def __init__(self):
        super().__init__()
        self.report = {}
        for name in ("bool", "int16", "complex64", "bfloat16", "float64"):
            self.register_buffer(f"of_{name}", torch.zeros(3, dtype=getattr(torch, name)), persistent=False)
        self.register_buffer("nothing", torch.zeros(0))
        self.register_buffer("across", torch.zeros(2, 3).t())

    def setup(self, stage):
        with torch.no_grad():
            for tensor in [*self.parameters(), *self.buffers()]:
                tensor.fill_(2 - 2 * self.global_rank)

    def predict_step(self, batch, batch_idx):
        self.report["sums"] = [tensor.cfloat().sum().real.item() for tensor in [*self.parameters(), *self.buffers()]]


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_an_evaluation_is_of_the_weights_of_rank_zero(tmp_path, stage):
    trainer, reporter = quiet(tmp_path)
    model = Apart()
    model.validation_step = model.test_step = model.predict_step
    options = {} if stage == "predict" else {"verbose": False}
    getattr(trainer, stage)(model, loader(4), **options)
    expected = [tensor.numel() * (1 if name == "of_bool" else 2) for name, tensor in model.named_parameters()]
    expected += [tensor.numel() * (1 if name == "of_bool" else 2) for name, tensor in model.named_buffers()]
    assert [report["sums"] for report in reporter.reports(stage)] == [expected] * 2


def test_a_fit_that_trains_nothing_has_the_weights_of_rank_zero(tmp_path):
    class Frozen(Apart):
        def training_step(self, batch, batch_idx):
            return self.predict_step(batch, batch_idx)

        def configure_optimizers(self):
            return None

        def setup(self, stage):
            super().setup(stage)
            self.freeze()

    trainer, reporter = quiet(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        trainer.fit(Frozen(), loader(4))
    first, second = (report["sums"] for report in reporter.reports())
    assert first == second


def test_a_validation_is_of_the_running_means_that_are_saved(tmp_path):
    class Normalised(Validated):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Sequential(torch.nn.BatchNorm1d(4), self.layer)
            self.report = {"means": []}

        def validation_step(self, batch, batch_idx):
            self.report["means"].append(self.layer[0].running_mean.tolist())

    trainer, reporter = quiet(tmp_path, max_epochs=2)
    trainer.fit(Normalised(), loader(8), loader(4))
    first, second = (report["means"] for report in reporter.reports())
    assert first == second
    assert len({tuple(mean) for mean in first}) == 3  # of the sanity check and of each epoch


OTHER_MODELS = {
    "shape": (lambda model: setattr(model, "layer", torch.nn.Linear(4, 2)), r"layer\.0\.weight is float32\[8, 4\]"),
    "type": (lambda model: model.double(), r"layer\.0\.weight is float32\[8, 4\].* on rank 0 and float64"),
    "buffer": (
        lambda model: model.register_buffer("more", torch.ones(3)),
        r"more is missing on rank 0 and float32\[3\]",
    ),
    "order": (lambda model: setattr(model.layer, "_modules", dict(reversed(model.layer._modules.items()))), "orders"),
    "frozen": (lambda model: model.layer[0].requires_grad_(False), r"8, 4\], which is trained on rank 0 and float32"),
}


@pytest.mark.parametrize("what", OTHER_MODELS)
def test_models_that_differ_are_refused_on_all_ranks(tmp_path, what):
    change, said = OTHER_MODELS[what]

    class Other(Model):
        def configure_model(self):
            if self.global_rank:
                change(self)

    with pytest.raises(MisconfigurationException, match=said):
        quiet(tmp_path)[0].fit(Other(), loader(4))


class Drawing(Sampler):
    """Another order in each process, and in each epoch."""

    def __init__(self, count=12):
        self.count, self.generator = count, None

    def __iter__(self):
        if self.generator is None:
            self.generator = torch.Generator().manual_seed(os.getpid())
        return iter(torch.randperm(self.count, generator=self.generator).tolist())

    def __len__(self):
        return self.count


class Backwards(BatchSampler):
    """Batches of its own kind."""

    def __iter__(self):
        return (batch[::-1] for batch in super().__iter__())


def loaders_of_own_order():
    rows = loader(12).dataset
    return {
        "sampler": DataLoader(rows, 2, sampler=Drawing()),
        "pytorch's": DataLoader(rows, 2, sampler=SubsetRandomSampler(range(12), torch.Generator())),
        "batch sampler": DataLoader(rows, batch_sampler=Backwards(Drawing(), 2, False)),
        "pytorch's batch sampler": DataLoader(rows, batch_sampler=BatchSampler(Drawing(), 2, False)),
        "some": DataLoader(rows, 2, sampler=RandomSampler(rows, num_samples=8)),
        "shuffled": DataLoader(rows, 2, shuffle=True),
    }


@pytest.mark.parametrize("what", loaders_of_own_order())
def test_all_ranks_take_the_samples_in_one_order(tmp_path, what, monkeypatch):
    class Seeded(Model):
        """Each rank is seeded by itself, as one does to draw different augmentations."""

        def setup(self, stage):
            os.environ["PL_GLOBAL_SEED"] = str(self.global_rank)
            for sampler in (data.sampler, data.batch_sampler.sampler):
                if isinstance(getattr(sampler, "generator", None), torch.Generator):
                    sampler.generator.manual_seed(os.getpid())

    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    data, count = loaders_of_own_order()[what], 8 if what == "some" else 12
    trainer, reporter = quiet(tmp_path, max_epochs=2)
    trainer.fit(Seeded(), data)
    trainer.test(Seeded(), data, verbose=False)
    ranks = [report["seen"] for report in reporter.reports()]
    epochs = [[batch for seen in ranks for batch in seen["train"][part]] for part in (slice(0, 3), slice(3, 6))]
    if what == "some":
        epochs = [[batch for seen in ranks for batch in seen["train"][part]] for part in (slice(0, 2), slice(2, 4))]
    tested = [batch for report in reporter.reports("test") for batch in report["seen"]["test"]]
    for passed in (*epochs, tested):
        rows = [row for batch in passed for row in batch]
        assert len(rows) == len(set(rows)) == count
        assert rows != sorted(rows)
    assert epochs[0] != epochs[1]


def test_a_fit_in_an_order_of_its_own_is_resumed_within_an_epoch(tmp_path):
    class Resumable(Model):
        def __init__(self):
            super().__init__()
            self.sampler = SubsetRandomSampler(range(12), torch.Generator())

        def setup(self, stage):
            self.sampler.generator.manual_seed(os.getpid())

        def train_dataloader(self):
            return DataLoader(loader(12).dataset, 2, sampler=self.sampler)

    def fit(name, path=None):
        saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer, reporter = quiet(tmp_path / name, max_epochs=2, callbacks=[saving], enable_checkpointing=True)
        model = Resumable()
        trainer.fit(model, ckpt_path=path)
        return [report["seen"]["train"] for report in reporter.reports()], model

    whole, trained = fit("whole")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the directory is not empty
        rest, resumed = fit("rest", tmp_path / "step=4.ckpt")
    assert rest == [seen[4:] for seen in whole]
    assert same_weights(trained, resumed)


@dataclass
class Pair:
    tensor: torch.Tensor
    name: str


def test_what_is_no_tensor_is_gathered_as_a_list(tmp_path):
    class Gathering(Model):
        def on_test_start(self):
            rank = self.global_rank
            given = {
                "tensor": torch.tensor([rank, 7]), "number": rank + 0.5, "array": np.arange(2) + rank,
                "text": f"of {rank}", "none": None, "nested": [Pair(torch.tensor(rank), "pair"), (rank, "rest"), []],
                "sets": {rank}, "whole": None if rank else "here",
            }  # fmt: skip
            found = self.all_gather(given)
            assert found["tensor"].tolist() == [[0, 7], [1, 7]]
            assert found["number"].tolist() == [0.5, 1.5]
            assert found["array"].tolist() == [[0, 1], [1, 2]]
            assert (found["text"], found["none"], found["sets"]) == (["of 0", "of 1"], [None, None], [{0}, {1}])
            assert found["whole"] == ["here", None]
            pair, (number, rest), empty = found["nested"]
            assert (pair.tensor.tolist(), pair.name) == ([0, 1], ["pair", "pair"])
            assert (number.tolist(), rest, empty) == ([0, 1], ["rest", "rest"], [])
            assert self.all_gather("alone") == ["alone", "alone"]
            assert self.all_gather(["alone"], group=torch.distributed.group.WORLD) == [["alone", "alone"]]
            assert self.all_gather({}) == {}

    quiet(tmp_path)[0].test(Gathering(), loader(4), verbose=False)


OTHER_SIZES = {
    "sizes": (lambda rank: torch.ones(2 + rank), r"float32\[2\] on rank 0, float32\[3\] on rank 1"),
    "dimensions": (lambda rank: [torch.ones(1), torch.ones([2] * rank)], r"float32\[\] on rank 0, float32\[2\] on"),
    "types": (lambda rank: torch.tensor([rank, rank + 0.5][rank]), r"int64\[\] on rank 0, float32\[\] on rank 1"),
    "kinds": (lambda rank: {"a": None if rank else 1.0}, r"float32\[\] on rank 0, what is no tensor on rank 1"),
    "numbers": (lambda rank: [torch.ones(1)] * (1 + rank), "nothing on rank 0, float32"),
}


@pytest.mark.parametrize("what", OTHER_SIZES)
def test_other_sizes_are_named_on_all_ranks(tmp_path, what):
    given, said = OTHER_SIZES[what]

    class Gathering(Model):
        def on_test_start(self):
            with pytest.raises(MisconfigurationException, match=said):
                self.all_gather(given(self.global_rank))
            raise ArithmeticError(f"{said} was said")

    with pytest.raises(ArithmeticError):
        quiet(tmp_path)[0].test(Gathering(), loader(4), verbose=False)

"""Two processes against one: the same weights on the same global batch, data divided rightly, metrics of all."""

import copy
import pickle
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.utils.data import WeightedRandomSampler

import leyden as pl
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.ranks import on_ranks
from leyden_testing.reporting import Model, Validated, alone, loader, quiet
from leyden_testing.training import same_weights, weights

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=0.05)
CASES = {
    "SGD": (SGD, {}, 1e-6),
    "Adam": (ADAM, {}, 1e-6),
    "clipped by norm": (SGD, {"gradient_clip_val": 0.1}, 1e-6),
    "clipped by value": (ADAM, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}, 1e-5),
    "accumulated": (SGD, {"accumulate_grad_batches": 2}, 1e-6),
    "a last group of one": (SGD, {"accumulate_grad_batches": 3}, 1e-6),
    "bf16": (SGD, {"precision": "bf16-mixed"}, 2e-2),
    "64 bits": (ADAM, {"precision": "64-true"}, 1e-12),
}


@pytest.mark.parametrize("case", CASES)
def test_the_weights_are_those_of_one_process_on_the_same_global_batch(tmp_path, case):
    optimizer, options, tolerance = CASES[case]
    together, single = Model(optimizer), Model(optimizer)
    trainer, reporter = quiet(tmp_path, max_epochs=2, **options)
    trainer.fit(together, loader(16))
    alone(tmp_path / "alone", max_epochs=2, **options).fit(single, loader(16, 4))
    assert same_weights(together, single, tolerance)
    assert not same_weights(together, Model(optimizer), 10 * tolerance)
    ranks = reporter.reports()
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert trainer.global_step == ranks[0]["steps"] == ranks[1]["steps"]
    assert trainer.callback_metrics["train_loss_epoch"] == pytest.approx(ranks[1]["metrics"]["train_loss_epoch"])


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
def test_the_weights_are_lightnings_to_the_last_bit(tmp_path, optimizer):
    import pytorch_lightning as lightning

    ours, theirs = Model(optimizer), Model(optimizer)

    class Theirs(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = theirs.layer

        def training_step(self, batch, batch_idx):
            return nn.functional.mse_loss(self.layer(batch[0]), batch[1])

        def configure_optimizers(self):
            return optimizer(self.parameters())

    quiet(tmp_path, max_epochs=2)[0].fit(ours, loader(22, shuffle=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = lightning.Trainer(
            accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=2, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        peer.fit(Theirs(), loader(22, shuffle=True))
    assert same_weights(ours.layer, theirs.layer)
    assert peer.global_step == 0  # Lightning forgets it in the parent, Leyden does not


def test_a_fit_brings_everything_back(tmp_path):
    model = Validated()
    trainer, _ = quiet(tmp_path, max_epochs=2, enable_checkpointing=True, logger=True)
    trainer.fit(model, loader(8), loader(7))
    assert (trainer.global_step, trainer.current_epoch) == (4, 2)
    assert {"train_loss", "train_loss_epoch", "val_loss"} <= set(trainer.callback_metrics)
    best = trainer.checkpoint_callback.best_model_path
    assert torch.load(best, weights_only=True)["global_step"] == 4
    assert str(trainer.log_dir) in best
    results = trainer.validate(model, loader(7), verbose=False)
    assert results[0]["val_loss"] == pytest.approx(float(trainer.callback_metrics["val_loss"]))
    assert trainer.state.status == "finished"


@pytest.mark.parametrize(
    ("count", "world"), [(2, 2), (3, 2), (7, 2), (8, 2), (9, 2), (11, 2), (3, 3), (11, 3), (5, 4), (13, 4)]
)
def test_evaluation_and_prediction_see_every_sample_once(tmp_path, count, world):
    class Predicting(Model):
        def predict_step(self, batch, batch_idx):
            self.seen.setdefault("predict", []).append(batch[2].tolist())

    trainer, reporter = quiet(tmp_path, devices=world)
    results = trainer.test(Predicting(), loader(count, 4), verbose=False)
    expected = alone(tmp_path / "alone").test(Model(), loader(count, 4), verbose=False)
    assert results[0]["test_loss"] == pytest.approx(expected[0]["test_loss"], rel=1e-5)
    trainer.predict(Predicting(), loader(count, 4), return_predictions=False)
    for stage in ("test", "predict"):
        ranks = [report["seen"][stage] for report in reporter.reports(stage)]
        assert sorted(row for batches in ranks for batch in batches for row in batch) == list(range(count))
        assert len(set(map(len, ranks))) == 1 or stage == "predict"  # so that steps may call collectives


def test_a_rank_that_is_alone_in_a_collective_does_not_wait_for_ever(tmp_path):
    class Alone(Model):
        def test_step(self, batch, batch_idx):
            if self.global_rank == 0:
                self.all_gather(torch.ones(()))

    with pytest.raises(
        Exception, match=r"Rank 0 waits for the others in all_gather.*, and rank 1 in the end of an epoch"
    ):
        quiet(tmp_path)[0].test(Alone(), loader(4))


def test_shuffling_is_another_in_every_epoch_and_divides_the_data(tmp_path):
    trainer, reporter = quiet(tmp_path, max_epochs=2)
    trainer.fit(Model(), loader(16, shuffle=True))
    ranks = [report["seen"]["train"] for report in reporter.reports()]
    epochs = [[row for rank in ranks for batch in rank[part] for row in batch] for part in (slice(0, 4), slice(4, 8))]
    assert all(sorted(epoch) == list(range(16)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_sampler_of_the_users_own_is_divided_and_not_replaced(tmp_path):
    weights = [1.0] * 4 + [0.0] * 12
    sampler = WeightedRandomSampler(weights, 12)
    trainer, reporter = quiet(tmp_path, max_epochs=2)
    trainer.fit(Model(), loader(16, sampler=sampler))
    ranks = [report["seen"]["train"] for report in reporter.reports()]
    assert [sum(map(len, rank)) for rank in ranks] == [12, 12]
    assert {row for rank in ranks for batch in rank for row in batch} <= {0, 1, 2, 3}


class Unused(Model):
    """Half of its parameters take no part in the loss."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Linear(3, 3)


def test_unused_parameters_are_named(tmp_path):
    with pytest.raises(Exception, match=r"took no part in the last loss.*idle\.weight, idle\.bias.*find_unused"):
        quiet(tmp_path)[0].fit(Unused(), loader(8))


def test_unused_parameters_are_found_if_asked(tmp_path):
    model = Unused()
    trainer, _ = quiet(tmp_path, strategy="ddp_fork_find_unused_parameters_true")
    trainer.fit(model, loader(8))
    assert trainer.global_step == 2


class TwoOptimizers(Model):
    """Two parts that are trained in turn by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y, _ = batch
        for part, optimizer in zip((self.layer[0], self.layer[2]), self.optimizers(), strict=True):
            self.toggle_optimizer(optimizer)
            loss = nn.functional.mse_loss(self.layer(x), y)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
            assert part.weight.grad is not None

    def configure_optimizers(self):
        return [torch.optim.SGD(self.layer[i].parameters(), lr=0.1) for i in (0, 2)]


def test_manual_optimisation_of_two_optimizers(tmp_path):
    together, single = TwoOptimizers(), TwoOptimizers()
    trainer, reporter = quiet(tmp_path, strategy="ddp_fork_find_unused_parameters_true")
    trainer.fit(together, loader(16))
    alone(tmp_path / "alone").fit(single, loader(16, 4))
    assert same_weights(together, single, 1e-6)
    assert trainer.global_step == 8
    ranks = reporter.reports()
    assert ranks[0]["weights"] == ranks[1]["weights"]


def test_gradients_are_exchanged_only_when_the_optimizer_steps(tmp_path):
    from leyden_ddp.strategy import DDPStrategy

    class Counting(Model):
        def on_train_start(self):
            self.report = {"exchanges": 0}

    model = Counting()

    def hook(state, bucket):
        model.report["exchanges"] += 1
        return allreduce_hook(None, bucket)

    strategy = DDPStrategy(start_method="fork", ddp_comm_hook=hook, gradient_as_bucket_view=True)
    trainer, reporter = quiet(tmp_path, strategy=strategy, accumulate_grad_batches=4)
    trainer.fit(model, loader(32))
    assert [report["exchanges"] for report in reporter.reports()] == [2, 2]


@pytest.mark.parametrize("every", [1, 3])
def test_static_graph(tmp_path, every):
    from leyden_ddp.strategy import DDPStrategy

    together, single, options = Model(), Model(), {"accumulate_grad_batches": every, "max_epochs": 2}
    strategy = DDPStrategy(start_method="fork", static_graph=True)
    trainer, reporter = quiet(tmp_path, strategy=strategy, **options)
    trainer.fit(together, loader(16))
    alone(tmp_path / "alone", **options).fit(single, loader(16, 4))
    assert same_weights(together, single, 1e-6)
    ranks = reporter.reports()
    assert ranks[0]["weights"] == ranks[1]["weights"]


def test_a_static_graph_is_refused_in_manual_optimisation(tmp_path):
    from leyden_ddp.strategy import DDPStrategy

    trainer, _ = quiet(tmp_path, strategy=DDPStrategy(start_method="fork", static_graph=True))
    with pytest.raises(MisconfigurationException, match=r"static_graph=True\) does not work in manual optimisation"):
        trainer.fit(TwoOptimizers(), loader(16))


class Collectives(Model):
    """Calls every collective of a module and of its Trainer."""

    def on_train_start(self):
        rank, strategy = self.global_rank, self.trainer.strategy
        number = torch.tensor(float(rank + 1))
        self.report = {
            "gathered": self.all_gather({"a": number})["a"].tolist(),
            "reduced": [strategy.reduce(number, op).item() for op in ("mean", "sum", "min", "max")],
            "whole": strategy.reduce(torch.tensor(rank), "mean").item(),
            "broadcast": strategy.broadcast({"rank": rank}, src=1),
            "objects": strategy.all_gather_object(str(rank)),
            "decided": [strategy.reduce_boolean_decision(rank == 0, all=both) for both in (True, False)],
            "zero": self.trainer.is_global_zero,
        }
        strategy.barrier("here")


def test_collectives(tmp_path):
    trainer, reporter = quiet(tmp_path)
    trainer.fit(Collectives(), loader(4))
    for rank, report in enumerate(reporter.reports()):
        assert report["gathered"] == [1, 2]
        assert report["reduced"] == [1.5, 3, 1, 2]
        assert report["whole"] == 0.5
        assert report["broadcast"] == {"rank": 1}
        assert report["objects"] == ["0", "1"]
        assert report["decided"] == [False, True]
        assert report["zero"] == (rank == 0)


def test_a_custom_reduction_over_processes(tmp_path):
    class Summed(Model):
        def validation_step(self, batch, batch_idx):
            self.log("least", batch[2].min().float(), reduce_fx="min", sync_dist=True)
            self.log("rows", float(len(batch[2])), reduce_fx="sum", sync_dist=True)
            self.log("mine", float(self.global_rank), rank_zero_only=True)

    trainer, _ = quiet(tmp_path)
    trainer.fit(Summed(), loader(4), loader(7))
    assert trainer.callback_metrics["least"] == 0
    assert trainer.callback_metrics["rows"] == 7
    assert trainer.callback_metrics["mine"] == 0


def test_early_stopping_is_decided_for_all(tmp_path):
    from leyden.callbacks import EarlyStopping

    class Diverging(Model):
        def validation_step(self, batch, batch_idx):
            self.log("worse_here", float(self.current_epoch * (self.global_rank == 1)))

    stopping = EarlyStopping("worse_here", patience=0, mode="min")
    trainer, reporter = quiet(tmp_path, max_epochs=5, callbacks=[stopping])
    with warnings.catch_warnings():  # that the value differs, which test_ddp_agreement tests
        warnings.simplefilter("ignore", UserWarning)
        trainer.fit(Diverging(), loader(4), loader(4))
    assert [report["steps"] for report in reporter.reports()] == [2, 2]  # rank 0's value has not fallen


def test_prepare_data_runs_once(tmp_path):
    class Prepared(Model):
        def prepare_data(self):
            with open(tmp_path / "prepared", "a") as file:
                file.write(f"{self.trainer.local_rank}")

        def setup(self, stage):
            self.report = {"ready": (tmp_path / "prepared").exists()}

    trainer, reporter = quiet(tmp_path)
    trainer.fit(Prepared(), loader(4))
    assert (tmp_path / "prepared").read_text() == "0"
    assert [report["ready"] for report in reporter.reports()] == [True, True]


def test_predictions_of_rank_zero_come_back(tmp_path):
    trainer, _ = quiet(tmp_path)
    predictions = trainer.predict(Model(), loader(7))
    assert torch.cat(predictions).tolist() == [0, 2, 4, 6]


REFUSED = {
    "an unknown start": ({"strategy": {"start_method": "forks"}}, "start_method='forks' is not known; write one of"),
    "an unknown policy": ({"strategy": {"uneven_inputs": "wait"}}, "uneven_inputs='wait'"),
    "an unknown option": ({"strategy": {"find_unused": True}}, "has no option 'find_unused'; it takes"),
    "one device": ({"strategy": "single_device"}, "single_device' uses one device, but devices and num_nodes make 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused(tmp_path, case):
    from leyden_ddp.strategy import DDPStrategy

    options, said = REFUSED[case]
    with pytest.raises(MisconfigurationException, match=said):  # noqa: PT012 - some are refused when the strategy is made
        if isinstance(options.get("strategy"), dict):
            options = {"strategy": DDPStrategy(**options["strategy"])}
        quiet(tmp_path, **options)[0].fit(Model(), loader(4))


def test_a_second_fit_goes_on(tmp_path):
    model = Model()
    trainer, _ = quiet(tmp_path, max_epochs=1)
    trainer.fit(model, loader(8))
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, loader(8))
    assert (trainer.current_epoch, trainer.global_step) == (3, 6)


def fit_and_copy(tmp_path):
    """Train, copy the Trainer in two ways, and train each further; return the weights of all."""
    trainer, _ = quiet(tmp_path, strategy="ddp")
    trainer.fit(Model(partial(torch.optim.SGD, lr=0.1)), loader(8, num_workers=1))
    trainers = [trainer, pickle.loads(pickle.dumps(trainer)), copy.deepcopy(trainer)]
    for each in trainers:
        each.fit_loop.max_epochs = 2
        each.fit(each.model, loader(8))
    return [weights(each.model) for each in trainers]


def test_a_copy_of_a_trainer_goes_on_as_the_original_would(tmp_path):
    found = [each for of_rank in on_ranks(2, fit_and_copy, tmp_path) for each in of_rank]
    assert all(same_weights(found[0], each) for each in found)


def test_auto_takes_ddp_for_several_devices(tmp_path):
    from leyden_ddp.strategy import DDPStrategy

    trainer = pl.Trainer(accelerator="cpu", devices=2, logger=False, default_root_dir=tmp_path)
    assert type(trainer.strategy) is DDPStrategy
    assert (trainer.world_size, trainer.global_rank, trainer.num_devices) == (2, 0, 2)


def test_a_metric_of_all_that_only_one_rank_reads(tmp_path):
    """As a progress bar does: what is reduced over processes is reduced once, when all of them do."""

    class Reading(pl.Callback):
        def read(self, trainer, *_):
            if trainer.global_rank == 0:
                self.seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
                self.shown = dict(trainer.progress_bar_metrics)

        on_train_batch_end = on_train_epoch_end = on_validation_end = on_train_end = read

    class Logging(Validated):
        def on_train_epoch_end(self):
            self.log("at_the_end", float(self.global_rank), sync_dist=True, prog_bar=True)

        def on_validation_epoch_end(self):
            self.log("validated", float(self.global_rank), sync_dist=True)

    trainer, _ = quiet(tmp_path, max_epochs=2, callbacks=[Reading()])
    trainer.fit(Logging(), loader(8), loader(4))
    assert trainer.callback_metrics["at_the_end"] == trainer.callback_metrics["validated"] == 0.5

"""Every strategy against one process, and against ddp: the same weights on the same global batch."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import leyden as pl
from leyden.plugins import MixedPrecision, Precision
from leyden.strategies import ModelParallelStrategy
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing import training
from leyden_testing.ranks import on_ranks
from leyden_testing.training import loader, same_weights

from .sharded_model import FSDP, STRATEGIES, Model, furthest, quiet

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=0.05)
ADAMW = partial(torch.optim.AdamW, lr=0.05)


def grouped(parameters):
    """Two groups of parameters with options of their own."""
    *most, last = parameters
    return torch.optim.AdamW([{"params": most}, {"params": [last], "lr": 0.2, "weight_decay": 0.0}], lr=0.05)


def half():
    """Scaled by so little that no step is skipped."""
    return MixedPrecision("16-mixed", scaler=torch.amp.GradScaler("cpu", init_scale=64.0))


# optimizer, options of the Trainer, tolerance against one process, whether it is ddp's arithmetic: norms are added up
# in another order, and PyTorch rounds 16-bit sums differently at the end of a tensor
CASES = {
    "SGD": (SGD, {}, 1e-6, True),
    "Adam": (ADAM, {}, 1e-6, True),
    "groups": (grouped, {}, 1e-6, True),
    "clipped by norm": (SGD, {"gradient_clip_val": 0.1}, 1e-6, False),
    "clipped by value": (ADAM, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}, 1e-5, True),
    "accumulated": (SGD, {"accumulate_grad_batches": 2}, 1e-6, True),
    "accumulated, with a last group of one": (SGD, {"accumulate_grad_batches": 3}, 1e-6, True),
    "bf16-mixed": (SGD, {"precision": "bf16-mixed"}, 2e-2, True),
    "16-mixed": (SGD, {"plugins": half, "gradient_clip_val": 1.0}, 1e-2, False),
    "bf16-true": (SGD, {"precision": "bf16-true"}, 0.1, False),
    "64-true": (ADAM, {"precision": "64-true"}, 1e-12, True),
}


def train(root, strategy, batch_size, cases=tuple(CASES)):
    """The weights after each case, in one process or in all."""
    found = {}
    for case in cases:
        optimizer, options, *_ = CASES[case]
        options = {name: value() if callable(value) else value for name, value in options.items()}
        model = Model(optimizer)
        trainer = quiet(root, strategy, devices=1 if strategy == "auto" else 2, max_epochs=2, **options)
        trainer.fit(model, loader(16, batch_size), loader(6, batch_size))
        assert trainer.global_step == (4 if case.startswith("accumulated") else 8)
        found[case] = training.weights(model)
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What each strategy made of each case; the weights of both ranks."""
    return {name: on_ranks(2, train, tmp_path_factory.mktemp("run"), name, 2) for name in STRATEGIES}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone"), "auto", 4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_weights_are_those_of_one_process_on_the_same_global_batch(trained, alone, strategy, case):
    first, second = (found[case] for found in trained[strategy])
    tolerance = CASES[case][2]
    assert same_weights(first, second)
    assert furthest(first, alone[case]) < tolerance
    assert furthest(first, training.weights(Model())) > 5 * tolerance


@pytest.mark.parametrize("case", [case for case, (*_, is_same) in CASES.items() if is_same])
@pytest.mark.parametrize("strategy", ["zero_1", *FSDP])
def test_the_weights_are_ddps_to_the_last_bit(trained, strategy, case):
    assert same_weights(trained[strategy][0][case], trained["ddp"][0][case])


def train_on_the_same(root, strategy):
    """Every rank has the whole data, so that averaging changes nothing."""
    model = Model(ADAM)
    trainer = quiet(root, strategy, 1 if strategy == "auto" else 2, max_epochs=3, use_distributed_sampler=False)
    trainer.fit(model, loader(9, 3), loader(3))
    return training.weights(model)


@pytest.mark.parametrize("strategy", ["zero_1", "zero_2", "zero_3 by layer"])
def test_ranks_with_the_same_batches_are_one_process_to_the_last_bit(tmp_path, strategy):
    together = on_ranks(2, train_on_the_same, tmp_path, strategy)
    assert same_weights(together[0], train_on_the_same(tmp_path / "alone", "auto"))


class Stream(IterableDataset):
    """Five batches of four rows, without a length; each of two processes has two rows of every batch."""

    def __iter__(self):
        rows, together = (
            torch.randn(20, 6, generator=torch.Generator().manual_seed(0)),
            torch.distributed.is_initialized(),
        )
        mine = rows.view(5, 2, 2, 6)[:, torch.distributed.get_rank()].reshape(-1, 6) if together else rows
        return ((row[:4], row[4:]) for row in mine)


def train_to_an_unknown_end(root, names, devices):
    """The weights after accumulations whose last group is smaller, which is not known when it begins."""
    found = {}
    for name in names:
        trainer = quiet(root, name, devices, max_epochs=2, accumulate_grad_batches=3)
        trainer.fit(model := Model(SGD), DataLoader(Stream(), 4 // devices), loader(4))
        assert trainer.global_step == 4
        found[name] = training.weights(model)
    return found


def test_a_last_group_that_is_smaller_than_was_known_is_its_own_mean(tmp_path):
    names = ["ddp", "zero_1", "zero_2", "zero_3 by layer"]
    single = train_to_an_unknown_end(tmp_path, ["auto"], 1)["auto"]
    for rank in on_ranks(2, train_to_an_unknown_end, tmp_path, names, 2):
        for name in names:
            assert furthest(rank[name], single) < 1e-6, name


class OneRow(Model):
    """Overflows in the second batch, in the gradients of one row of a weight, which one of two processes has."""

    def training_step(self, batch, batch_idx):
        loss, overflow = self.loss(batch), float("inf") if batch_idx == 1 else 0.0
        return loss + (self.layers[0].weight[-1] * overflow).sum() if overflow else loss


def skip(root):
    """The steps and whether the weights are finite, under each strategy."""
    found = {}
    for name in ("zero_1", "zero_2", "zero_3"):
        trainer = quiet(root, name, 2, plugins=half())
        trainer.fit(model := OneRow(SGD), loader(16), loader(4))
        finite = all(bool(weight.isfinite().all()) for weight in training.weights(model).values())
        found[name] = (trainer.global_step, trainer.precision_plugin.skipped_steps, finite)
    return found


def test_all_ranks_skip_a_step_that_overflows_on_one(tmp_path):
    first, second = on_ranks(2, skip, tmp_path)
    assert first == second
    assert set(first.values()) == {(3, 1, True)}


class Fewer(IterableDataset):
    """Rows of which rank 1 has fewer."""

    def __iter__(self):
        rank = torch.distributed.get_rank()
        generator = torch.Generator().manual_seed(rank)
        rows = [torch.randn(6, generator=generator) for _ in range(5 - 2 * rank)]
        return ((row[:4], row[4:]) for row in rows)


def train_unevenly(root):
    """The weights after two epochs in which rank 1 joins after three of five batches, under each strategy."""
    found = {}
    for name in ("ddp", "zero_1", "zero_2", "zero_3 by layer"):
        strategy, model = STRATEGIES[name](uneven_inputs="join"), Model(SGD)
        trainer = quiet(root, strategy, 2, max_epochs=2, gradient_clip_val=10.0)
        trainer.fit(model, DataLoader(Fewer(), 1), loader(4))
        assert trainer.global_step == 10
        found[name] = training.weights(model)
    return found


def test_ranks_with_fewer_batches_join_as_under_ddp(tmp_path):
    first, second = on_ranks(2, train_unevenly, tmp_path)
    for name, state in first.items():
        assert same_weights(state, second[name])
        assert furthest(state, first["ddp"]) < 1e-6
    assert furthest(first["ddp"], training.weights(Model(SGD))) > 1e-3


class Adversaries(pl.LightningModule):
    """Manual optimisation: two networks with an optimizer each, of which only one requires gradients at a time."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.maker, self.judge = nn.ModuleList([nn.Linear(4, 4)]), nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        making, judging = self.optimizers()
        with torch.no_grad():
            made = self.maker[0](batch[0])
        with judging.toggle_model():
            loss = (self.judge(made) - batch[1]).square().mean() + self.judge(batch[0]).square().mean()
            judging.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(judging, 0.5)
            judging.step()
        with making.toggle_model(sync_grad=batch_idx % 2 == 1):
            self.manual_backward(self.judge(self.maker[0](batch[0])).square().mean())
        if batch_idx % 2 == 1:
            making.step()
            making.zero_grad()

    def configure_optimizers(self):
        return SGD(self.maker.parameters()), ADAM(self.judge.parameters())


def train_adversaries(root, strategy, batch_size, options):
    model, devices = Adversaries(), 1
    if strategy != "auto":
        strategy, devices = STRATEGIES[strategy](**options), 2
    quiet(root, strategy, devices, max_epochs=2).fit(model, loader(16, batch_size))
    return training.weights(model)


@pytest.mark.parametrize(
    ("strategy", "options"), [("zero_1", {"find_unused_parameters": True}), ("zero_2", {}), ("zero_3", {})]
)
def test_manual_optimisation(tmp_path, strategy, options):
    together = on_ranks(2, train_adversaries, tmp_path, strategy, 2, options)
    assert same_weights(*together)
    assert furthest(together[0], train_adversaries(tmp_path / "alone", "auto", 4, {})) < 1e-6


class Scheduled(Model):
    """The learning rate changes with every step, and after an epoch by what is logged."""

    def configure_optimizers(self):
        optimizer = ADAMW(self.parameters())
        steps = {"scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, 8), "interval": "step"}
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.1, mode="max")
        return [optimizer], [steps, {"scheduler": plateau, "monitor": "val_loss"}]


def train_scheduled(root, strategy, batch_size):
    model = Scheduled()
    trainer = quiet(root, strategy, 1 if strategy == "auto" else 2, max_epochs=2)
    trainer.fit(model, loader(16, batch_size), loader(4))
    return training.weights(model), trainer.optimizers[0].param_groups[0]["lr"]


@pytest.mark.parametrize("strategy", ["zero_1", "zero_3"])
def test_schedulers_reach_the_optimizer(tmp_path, strategy):
    weights, rate = train_scheduled(tmp_path / "alone", "auto", 4)
    for found, its_rate in on_ranks(2, train_scheduled, tmp_path, strategy, 2):
        assert furthest(found, weights) < 1e-6
        assert its_rate == pytest.approx(rate)


def test_an_optimizer_that_does_not_step_parameters_by_themselves_is_refused(tmp_path):
    def divide():
        model = Model(torch.optim.LBFGS)
        with pytest.raises(MisconfigurationException, match="LBFGS, which does not step each parameter independently"):
            quiet(tmp_path, "zero_1", 2).fit(model, loader(8), loader(4))

    on_ranks(2, divide)


def train_on_overflow(root, strategy):
    """The gradients of rank 1 overflow in the first batch; the step is skipped by all."""
    model = Model(SGD)

    class Overflowing(pl.Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            if trainer.global_rank == 1 and trainer.fit_loop.trainer.progress.total_batches == 1:
                loss.data.fill_(0)
                loss.register_hook(lambda gradient: gradient * float("inf"))

    trainer = quiet(root, strategy, 2, precision="16-mixed", limit_train_batches=1, callbacks=[Overflowing()])
    trainer.precision_plugin.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    trainer.fit(model, loader(16), loader(4))
    return training.weights(model), trainer.precision_plugin.skipped_steps, trainer.precision_plugin.scaler.get_scale()


@pytest.mark.parametrize("strategy", ["zero_1", "zero_3 by layer"])
def test_a_step_that_overflows_on_one_rank_is_skipped_on_all(tmp_path, strategy):
    for weights, skipped, scale in on_ranks(2, train_on_overflow, tmp_path, strategy):
        assert same_weights(weights, training.weights(Model()))
        assert (skipped, scale) == (1, 32.0)


class Normalised(Model):
    """The model with a batch normalisation."""

    def __init__(self):
        super().__init__(SGD)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))


def train_normalised(root, strategy, batch_size):
    """The weights after two runs of one module, with an evaluation between them."""
    model = Normalised()
    for _ in range(2):
        trainer = quiet(
            root, strategy, devices=1 if strategy == "auto" else 2, precision="64-true", sync_batchnorm=True
        )
        trainer.fit(model, loader(16, batch_size), loader(6, batch_size))
        trainer.test(model, loader(7, batch_size), verbose=False)
    return training.weights(model)


def train_normalised_by_all(root):
    found = {strategy: train_normalised(root, strategy, 4) for strategy in STRATEGIES}
    for groups, batch_size in ((2, 4), (1, 8)):  # in one tensor-parallel group both see the whole batch
        strategy = ModelParallelStrategy(groups, 2 // groups)
        found[f"model_parallel, {groups}"] = train_normalised(root, strategy, batch_size)
    return found


def test_batch_normalisation_is_over_the_batches_of_all_processes(tmp_path):
    expected = train_normalised(tmp_path, "auto", 8)
    for found in on_ranks(2, train_normalised_by_all, tmp_path):
        differences = {strategy: furthest(state, expected) for strategy, state in found.items()}
        assert len(differences) == len(STRATEGIES) + 2
        assert max(differences.values()) < 1e-12, differences


class ClipsNothing(Precision):
    """Clips in a way of its own."""

    asked = 0

    def clip_gradients(self, parameters, clip_val, algorithm):
        self.asked += 1


def clip_by_precision(root):
    precision = ClipsNothing()
    trainer = quiet(root, "zero_2", 2, plugins=[precision], gradient_clip_val=0.1)
    trainer.fit(Model(), loader(8), loader(4))
    return precision.asked, trainer.global_step


def test_a_precision_that_clips_in_its_own_way_is_asked(tmp_path):
    assert on_ranks(2, clip_by_precision, tmp_path) == [(2, 2)] * 2

"""What is divided, and when it is whole: units, activations, the meta device, evaluation of uneven data."""

import contextlib
import functools
import re

import numpy
import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy, size_based_auto_wrap_policy
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, IterableDataset

from leyden.strategies import FSDPStrategy
from leyden.utilities.exceptions import MisconfigurationException
from leyden_sharded.units import units
from leyden_testing import training
from leyden_testing.ranks import on_ranks
from leyden_testing.training import loader, same_weights

from .sharded_model import Model, furthest, quiet


class Blocks(nn.Module):
    """Two blocks of 20 + 20 parameters, and a head of 10 that is tied to an embedding where asked."""

    def __init__(self, is_tied=False):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(2))
        self.embedding = nn.Embedding(2, 4)
        self.head = nn.Linear(4, 2)
        if is_tied:
            self.head.weight = self.embedding.weight


def chosen(model, policy):
    names = {module: name for name, module in model.named_modules()}
    return [names[unit] for unit in units(model, policy, "auto_wrap_policy")]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (None, []),
        ({nn.Sequential}, ["blocks.0", "blocks.1"]),
        (nn.Embedding, ["embedding"]),
        ([nn.Sequential, nn.Linear], [f"blocks.{i}{j}" for i in (0, 1) for j in (".0", ".1", "")] + ["head"]),
        (15, ["blocks.0.0", "blocks.0.1", "blocks.1.0", "blocks.1.1"]),
        (25, ["blocks.0", "blocks.1"]),
        (1000, []),
        (ModuleWrapPolicy({nn.Sequential}), ["blocks.0", "blocks.1"]),
        (functools.partial(size_based_auto_wrap_policy, min_num_params=25), ["blocks.0", "blocks.1"]),
    ],
)  # fmt: skip
def test_units_are_chosen_by_class_size_or_function(policy, expected):
    assert chosen(Blocks(), policy) == expected


def test_a_unit_shares_no_parameter_with_another(tmp_path):
    assert chosen(Blocks(is_tied=True), {nn.Linear, nn.Embedding})[-1] == "blocks.1.1"
    assert chosen(nn.Sequential(nn.Linear(2, 2), nn.MultiheadAttention(4, 1)), 1) == ["0", "1"]


@pytest.mark.parametrize("policy", [0, -1, True, 0.5, "Linear", {"Linear"}, [torch.Tensor]])
def test_what_is_no_policy_is_refused(policy):
    for argument in ("auto_wrap_policy", "activation_checkpointing_policy"):
        with pytest.raises(MisconfigurationException, match=f"{argument}=.* is no policy"):
            FSDPStrategy(**{argument: policy})


class Counted(nn.Module):
    """Counts how often it computes."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(9, 9), 0

    def forward(self, x):
        self.calls += 1
        return nn.functional.dropout(torch.tanh(self.layer(x)), 0.2, self.training)


class Deep(Model):
    def __init__(self):
        super().__init__()
        self.layers.insert(1, Counted())


def train_deep(root, options):
    model = Deep()
    torch.manual_seed(1)
    quiet(root, FSDPStrategy(**options), 2, num_sanity_val_steps=0).fit(model, loader(8), loader(4))
    return training.weights(model), model.layers[1].calls


def test_activations_are_computed_again_where_asked(tmp_path):
    def both():
        again = {"activation_checkpointing_policy": {Counted}, "auto_wrap_policy": {nn.Linear}}
        return train_deep(tmp_path, {}), train_deep(tmp_path, again)

    for (kept, once), (computed, twice) in on_ranks(2, both):
        assert same_weights(kept, computed)
        assert (once, twice) == (3, 5)  # 2 training batches and 1 of validation


# -- where values come from -------------------------------------------------------------------------------------


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.empty(3))
        self.register_buffer("offset", torch.empty(3), persistent=False)
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("given", torch.from_numpy(numpy.arange(3.0)), persistent=False)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.uniform_(self.factor)
        self.offset.fill_(0.5)
        self.mask.copy_(torch.tensor([True, False, True]))

    def forward(self, x):
        return x * self.factor + self.offset + self.given.float()


class Late(Model):
    """Makes its layers in ``configure_model``, with values of each rank's own."""

    device_of_layers = "meta"

    def __init__(self):
        super().__init__()
        del self.scale
        self.layers = None

    def forward(self, x):
        return self.layers(x)

    def configure_model(self):
        if self.layers is None:
            torch.manual_seed(self.global_rank)
            with torch.device(self.device_of_layers):
                self.layers = nn.Sequential(nn.Linear(4, 3), Scale(), nn.BatchNorm1d(3), nn.Linear(3, 2))


class LateOnHost(Late):
    device_of_layers = "cpu"


def start(root, kind, strategy):
    model = kind()
    quiet(root, strategy, 2, limit_train_batches=0).fit(model, loader(4), loader(4))
    return training.weights(model), [*model.layers[1].offset.tolist(), *model.layers[1].given.tolist()]


@pytest.mark.parametrize("strategy", ["zero_2", "zero_3 by layer", "zero_3_offload"])
def test_a_model_on_the_meta_device_starts_with_the_values_of_rank_0(tmp_path, strategy):
    host = LateOnHost()
    quiet(tmp_path, limit_train_batches=0).fit(host, loader(4), loader(4))
    for kind in (Late, LateOnHost):
        for state, buffers in on_ranks(2, start, tmp_path, kind, strategy):
            assert same_weights(state, training.weights(host))
            assert buffers == [0.5, 0.5, 0.5, 0.0, 1.0, 2.0]


def init_on_meta(root, path):
    """``init_module`` makes a module without values; a checkpoint, or ``reset_parameters``, has them."""
    trainer = quiet(root, "zero_3 by layer", 2)
    with trainer.init_module(empty_init=True):
        model = Model()
    devices = {parameter.device.type for parameter in model.parameters()}
    with pytest.raises(MisconfigurationException, match=r"^scale: made on the meta device"):
        trainer.validate(model, loader(4), verbose=False)
    with trainer.init_module(empty_init=True):
        model = Model()
    trainer.validate(model, loader(4), ckpt_path=path, verbose=False)
    return devices, training.weights(model)


def test_a_parameter_without_values_is_named_unless_a_checkpoint_has_them(tmp_path):
    source = quiet(tmp_path)
    source.fit(Model(), loader(4), loader(4))
    source.save_checkpoint(tmp_path / "run.ckpt")
    for devices, state in on_ranks(2, init_on_meta, tmp_path, tmp_path / "run.ckpt"):
        assert devices == {"meta"}
        assert same_weights(state, training.weights(source.lightning_module))


# -- dividing ---------------------------------------------------------------------------------------------------


class Tied(Model):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Linear(9, 4), nn.Linear(9, 4)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.layers(x) * self.scale + (self.embedding(self.layers[0](x)) - self.head(self.layers[0](x)))[:, :2]


def train_tied(root, strategy):
    model = Tied()
    quiet(root, strategy, 1 if strategy == "auto" else 2).fit(
        model, loader(8, 4 if strategy == "auto" else 2), loader(4)
    )
    assert model.head.weight is model.embedding.weight
    return training.weights(model)


def test_tied_parameters_stay_tied(tmp_path):
    together = on_ranks(2, train_tied, tmp_path, "zero_3 by layer")[0]
    assert furthest(together, train_tied(tmp_path, "auto")) < 1e-6


class UsersOwn(Model):
    def configure_model(self):
        if not isinstance(self.layers[0], FSDPModule):
            fully_shard(self.layers[0], mesh=self.device_mesh)


def train_users_own(root):
    model = UsersOwn()
    trainer = quiet(root, "zero_3", 2)
    trainer.fit(model, loader(8), loader(4))
    parts = [name for name, part in model.named_modules() if isinstance(part, FSDPModule)]
    divided = all(isinstance(parameter, DTensor) for parameter in model.parameters())
    with pytest.warns(UserWarning, match="not used") if trainer.is_global_zero else contextlib.nullcontext():
        quiet(root, "zero_3 by layer", 2).fit(UsersOwn(), loader(8), loader(4))
    return parts, divided, training.weights(model)


def test_what_configure_model_has_divided_stays_so_and_the_rest_is_divided_too(tmp_path):
    single = Model()
    quiet(tmp_path).fit(single, loader(8, 4), loader(4))
    for rank, (parts, divided, state) in enumerate(on_ranks(2, train_users_own, tmp_path)):
        assert (parts, divided) == (["layers.0"], True), rank
        assert furthest(state, training.weights(single)) < 1e-6


class Reaching(Model):
    def forward(self, x):
        return nn.functional.linear(x, self.layers[0].weight)[:, :2] * self.scale


def test_a_parameter_that_is_used_while_it_is_divided_is_explained(tmp_path):
    def reach():
        with pytest.raises(MisconfigurationException, match=r"leave 'layers.0' out of auto_wrap_policy, or name"):
            quiet(tmp_path, "zero_3 by layer", 2).fit(Reaching(), loader(8), loader(4))
        quiet(tmp_path, "zero_3", 2).fit(Reaching(), loader(8), loader(4))

    on_ranks(2, reach)


class Nested(Model):
    def __init__(self, use):
        super().__init__()
        self.use = use

    def on_train_batch_end(self, *args):
        self.use(self)


class Adversarial(Model):
    """Manual optimisation of two networks that are parts of one submodule."""

    def __init__(self, step):
        super().__init__()
        self.automatic_optimization, self.step = False, step
        del self.scale
        self.both = nn.ModuleDict({"pair": nn.Sequential(self.layers, nn.Linear(2, 1))})
        del self.layers

    def training_step(self, batch, batch_idx):
        critic = self.optimizers()[1]
        with self.toggled_optimizer(critic):
            self.manual_backward(self.step(self.both["pair"], batch[0]))
        critic.step()

    def forward(self, x):
        return self.both["pair"](x).expand(-1, 2)

    def configure_optimizers(self):
        generator, critic = self.both["pair"]
        return torch.optim.SGD(generator.parameters(), lr=0.1), torch.optim.SGD(critic.parameters(), lr=0.1)


def penalty(pair, x):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(pair(x).sum(), x, create_graph=True)
    return gradient.square().mean()


HOOK = r"^\S+ \(test_sharded_modules.py:\d+\)"
FULL = "Take a whole copy by parameter.full_tensor(), in every process."
EXPLAINED = {
    "a weight": (
        lambda: Nested(lambda model: model.layers[0].weight @ torch.ones(4)),
        f"{HOOK} uses layers.0.weight outside of steps, where its parameters are divided .*{re.escape(FULL)}$",
    ),
    "two of them": (
        lambda: Nested(lambda model: (model.scale * torch.ones(2), model.layers[2].bias + torch.ones(2))),
        f"{HOOK} uses layers.2.bias, scale outside of steps|{HOOK} uses scale, layers.2.bias outside of steps",
    ),
    "a weight by no name": (
        lambda: Nested(lambda model: [p + torch.ones(p.shape) for p in model.parameters()]),
        f"{HOOK} uses a parameter outside of steps.*full_tensor",
    ),
    "a weight as numbers": (
        lambda: Nested(lambda model: model.layers[0].weight.detach().numpy()),
        f"{HOOK} uses layers.0.weight outside of steps",
    ),
    "a submodule": (
        lambda: Nested(lambda model: model.layers(torch.ones(1, 4))),
        f"{HOOK} calls 'layers' outside of steps.*Call the LightningModule instead, or make it a unit: "
        "auto_wrap_policy={Sequential}",
    ),
    "a network within another": (
        lambda: Adversarial(lambda pair, x: pair[1](pair[0](x)).mean()),
        f"{HOOK} calls 'both.pair.0' outside of the forward of 'both.pair'.*Call 'both.pair' instead, or make it",
    ),
    "a gradient of a gradient": (
        lambda: Adversarial(penalty),
        r"^training_step \(test_sharded_modules.py:\d+\) needs whole parameters that have been freed since, "
        r"for a gradient of a gradient \(create_graph=True\).*'ddp' or 'zero_1'",
    ),
}


def explain(tmp_path):
    said = {}
    for name, (make, _) in EXPLAINED.items():
        with pytest.raises(MisconfigurationException) as caught:
            quiet(tmp_path, "zero_2", 2).fit(make(), loader(8), loader(4))
        said[name] = str(caught.value)
    return said


@pytest.fixture(scope="module")
def explanations(tmp_path_factory):
    """What is said of every use of divided parameters, on both ranks."""
    return on_ranks(2, explain, tmp_path_factory.mktemp("explained"))


@pytest.mark.parametrize("case", EXPLAINED)
def test_a_use_of_divided_parameters_is_explained_with_names(explanations, case):
    for said in explanations:
        assert re.search(EXPLAINED[case][1], said[case]), said[case]


def follow_the_advice(tmp_path, devices):
    """What the explanations advise: a whole copy, a part that is a unit; then the values of one process."""
    values = []

    def look(model):
        weight = model.layers[0].weight
        weight = weight.full_tensor() if isinstance(weight, DTensor) else weight
        values.append(((weight @ torch.ones(4)).sum().item(), model.layers(torch.ones(1, 4)).sum().item()))

    strategy = FSDPStrategy(auto_wrap_policy={nn.Sequential}) if devices > 1 else "auto"
    quiet(tmp_path, strategy, devices).fit(Nested(look), loader(8, 4 // devices), loader(4))
    return values


def test_what_the_explanations_advise_works(tmp_path):
    first, second = on_ranks(2, follow_the_advice, tmp_path, 2)
    assert first == second
    assert torch.tensor(first).allclose(torch.tensor(follow_the_advice(tmp_path, 1)))


def test_an_optimizer_of_parameters_that_are_gone_is_refused(tmp_path):
    class Early(Model):
        def __init__(self):
            super().__init__()
            self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

        def configure_optimizers(self):
            return self.optimizer

    def early():
        with pytest.raises(MisconfigurationException, match="make it in configure_optimizers"):
            quiet(tmp_path, "zero_3", 2).fit(Early(), loader(8), loader(4))

    on_ranks(2, early)


class Sampling(Model):
    """Is called outside of its steps, and fails in the middle of its first run."""

    fails = True

    def on_train_epoch_end(self):
        self.sample = self(torch.ones(1, 4)).detach()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.fails and batch_idx == 1:
            self.fails = False
            raise ArithmeticError
        return loss


def fail_and_train(root, strategy, batch_size):
    """A run that fails within an accumulation, and one after it."""
    model, devices = Sampling(), 1 if strategy == "auto" else 2
    with pytest.raises(ArithmeticError):
        quiet(root, strategy, devices, accumulate_grad_batches=3).fit(model, loader(12, batch_size), loader(4))
    quiet(root, strategy, devices, accumulate_grad_batches=3).fit(model, loader(12, batch_size), loader(4))
    return {**training.weights(model), "sample": model.sample, "later": model(torch.ones(1, 4)).detach()}


def test_a_run_after_one_that_failed_is_refused_where_pytorch_can_not_start_afresh(tmp_path):
    def without():
        del FSDPModule.reset_iter_state
        with pytest.raises(MisconfigurationException, match="make a new module"):
            fail_and_train(tmp_path, "zero_3", 2)

    on_ranks(2, without)


def test_a_run_that_failed_leaves_nothing_to_the_next(tmp_path):
    together = on_ranks(2, fail_and_train, tmp_path, "zero_3 by layer", 2)
    alone = fail_and_train(tmp_path / "alone", "auto", 4)
    for found in together:
        assert furthest(found, alone) < 1e-6


# -- evaluation -------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    """Of which rank 1 has fewer."""

    def __iter__(self):
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return iter([(torch.ones(4), torch.ones(2))] * (5 - 2 * rank))


def evaluate(root, strategy):
    """Evaluate where ranks have different numbers of batches, before training, within it and after it."""
    model, trainer = Model(), quiet(root, strategy, 2, max_epochs=2)
    before = trainer.validate(model, loader(5, 1), verbose=False)[0]["val_loss"]
    trainer.fit(model, loader(8), loader(5, 1))
    within = float(trainer.callback_metrics["val_loss"])
    after = trainer.test(model, loader(5, 1), verbose=False)[0]["test_loss"]
    predicted = len(trainer.predict(model, loader(5, 1)))
    trainer.validate(model, DataLoader(Stream(), 1), verbose=False)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, loader(8), loader(4))
    return before, within, after, predicted, training.weights(model)


@pytest.mark.parametrize("strategy", ["zero_2", "zero_3 by layer", "zero_3_offload"])
def test_uneven_evaluation_neither_waits_nor_changes_anything(tmp_path, strategy):
    first, second = on_ranks(2, evaluate, tmp_path, strategy)
    model, trainer = Model(), quiet(tmp_path, max_epochs=2)
    expected = trainer.validate(model, loader(5, 1), verbose=False)[0]["val_loss"]
    trainer.fit(model, loader(8, 4), loader(5, 1))
    ended = float(trainer.callback_metrics["val_loss"])
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, loader(8, 4), loader(4))
    for before, within, after, _, state in (first, second):
        assert before == pytest.approx(expected)
        assert within == pytest.approx(ended)
        assert after == pytest.approx(ended)
        assert furthest(state, training.weights(model)) < 1e-6
    assert (first[3], second[3]) == (3, 2)


def test_a_module_of_the_users_is_whole_again_after_a_spawned_run(tmp_path):
    model = Model()
    trainer = quiet(tmp_path, FSDPStrategy(start_method="fork", auto_wrap_policy={nn.Linear}), 2)
    trainer.fit(model, loader(8), loader(4))
    single = Model()
    quiet(tmp_path).fit(single, loader(8, 4), loader(4))
    assert type(model.layers[0]) is nn.Linear
    assert furthest(training.weights(model), training.weights(single)) < 1e-6


def test_metrics_that_are_objects_are_kept_on_every_rank(tmp_path):
    torchmetrics = pytest.importorskip("torchmetrics")

    class Measured(Model):
        def __init__(self):
            super().__init__()
            self.error = torchmetrics.MeanSquaredError()

        def validation_step(self, batch, batch_idx):
            self.error(self(batch[0]), batch[1])
            self.log("error", self.error)

    def measure():
        return quiet(tmp_path, "zero_3 by layer", 2).validate(Measured(), loader(6), verbose=False)[0]["error"]

    single = quiet(tmp_path).validate(Measured(), loader(6), verbose=False)[0]["error"]
    assert on_ranks(2, measure) == [pytest.approx(single), pytest.approx(single)]


def evaluate_apart(root):
    """Validate a model whose weights differ between the ranks, then one whose shapes do."""

    class Apart(Model):
        def validation_step(self, batch, batch_idx):
            self.log("mean", sum(p.double().mean() for p in self.parameters()))

    trainer, model = quiet(root, FSDPStrategy(), 2), Apart()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(trainer.global_rank)
    (found,) = trainer.validate(model, loader(4), verbose=False)
    other = Apart()
    other.wider = nn.Linear(2, 2 + trainer.global_rank)
    with pytest.raises(
        MisconfigurationException, match=r"wider\.weight is float32\[2, 2\] on rank 0 and float32\[3, 2\]"
    ):
        trainer.validate(other, loader(4), verbose=False)
    return found


def test_an_evaluation_is_of_the_weights_of_rank_zero(tmp_path):
    assert on_ranks(2, evaluate_apart, tmp_path) == [{"mean": 0.0}] * 2

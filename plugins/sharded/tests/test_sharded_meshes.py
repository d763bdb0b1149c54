"""Meshes of two dimensions: replicas of divided models, and tensor parallelism as ``configure_model`` writes it."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from leyden.strategies import FSDPStrategy, ModelParallelStrategy
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing import training
from leyden_testing.ranks import on_ranks
from leyden_testing.training import loader, same_weights

from .sharded_model import Model, furthest, quiet

ADAM = partial(torch.optim.Adam, lr=0.05)


class Wide(Model):
    """Two layers that can be divided among two, and one that stays whole."""

    def __init__(self):
        super().__init__(ADAM)
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4), nn.Linear(4, 2))


class Parallel(Wide):
    """The same, divided."""

    def configure_model(self):
        if not isinstance(self.layers[0].weight, DTensor):
            plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
            parallelize_module(self.layers, self.device_mesh["tensor_parallel"], plan)


class ParallelAndDivided(Parallel):
    """Divided in both dimensions by the user."""

    def configure_model(self):
        super().configure_model()
        fully_shard(self.layers, mesh=self.device_mesh["data_parallel"])


CASES = {
    "plain": {},
    "clipped by norm": {"gradient_clip_val": 0.1},
    "clipped by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "accumulated": {"accumulate_grad_batches": 2},
}


def train_parallel(root, kind, sizes, batch_size):
    """The weights after each case, and those after a checkpoint of the last case is loaded."""
    found = {}
    for case, options in CASES.items():
        model = kind()
        strategy = ModelParallelStrategy(*sizes, save_distributed_checkpoint=case == "plain") if sizes else "auto"
        world = sizes[0] * sizes[1] if sizes else 1
        trainer = quiet(root, strategy, world, max_epochs=2, **options)
        trainer.fit(model, loader(16, batch_size), loader(8, batch_size))
        found[case] = training.weights(model)
        if sizes:
            trainer.save_checkpoint(root / case)
            resumed = kind()
            again = ModelParallelStrategy(*sizes)
            quiet(root, again, world, max_epochs=2, **options).fit(
                resumed, loader(16, batch_size), loader(8, batch_size), ckpt_path=root / case
            )
            assert same_weights(found[case], training.weights(resumed))
    return found


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (Parallel, (1, 2)),
        pytest.param(Parallel, (2, 2), marks=pytest.mark.slow),
        pytest.param(ParallelAndDivided, (2, 2), marks=pytest.mark.slow),
    ],
)
def test_tensor_parallel_training_is_that_of_one_process(tmp_path, kind, sizes):
    together = on_ranks(sizes[0] * sizes[1], train_parallel, tmp_path, kind, sizes, 4 // sizes[0])
    alone = train_parallel(tmp_path / "alone", Wide, None, 4)
    for found in together:
        for case in CASES:
            assert furthest(found[case], alone[case]) < 1e-5, case
    model = Wide()
    quiet(tmp_path).validate(model, loader(4), ckpt_path=tmp_path / "accumulated", verbose=False)
    assert same_weights(training.weights(model), together[0]["accumulated"])


def resume_within_an_accumulation(root):
    """A run, and one that goes on from where it was saved between the first and the second of three batches."""
    ends, path = [], root / "within.ckpt"

    class Saving(Parallel):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if batch_idx == 1 and not path.exists():
                self.trainer.save_checkpoint(path)

    for source in (None, path):
        model, strategy = Saving(), ModelParallelStrategy(1, 2, save_distributed_checkpoint=False)
        trainer = quiet(root, strategy, 2, accumulate_grad_batches=3)
        trainer.fit(model, loader(12), loader(4), ckpt_path=source)
        ends.append(training.weights(model))
    return ends


def test_a_tensor_parallel_run_goes_on_within_an_accumulation(tmp_path):
    for uninterrupted, resumed in on_ranks(2, resume_within_an_accumulation, tmp_path):
        assert same_weights(uninterrupted, resumed)
        assert not same_weights(uninterrupted, training.weights(Wide()))


def see_batches(root, sizes):
    """Which rows each rank is given."""
    seen = []

    class Seeing(Parallel):
        def training_step(self, batch, batch_idx):
            seen.append(batch[0][:, 0].tolist())
            return super().training_step(batch, batch_idx)

    model = Seeing()
    quiet(root, ModelParallelStrategy(*sizes), 2).fit(model, loader(8, 2, shuffle=True), loader(4))
    return seen, model.device_mesh.mesh_dim_names


def test_a_tensor_parallel_group_sees_the_same_data(tmp_path):
    first, second = on_ranks(2, see_batches, tmp_path, (1, 2))
    assert first == second
    assert len(first[0]) == 4
    assert first[1] == ("data_parallel", "tensor_parallel")


def train_replicas(root, options):
    """Every rank starts from values of its own, so that only what is exchanged makes them equal."""
    model = Model(ADAM)
    with torch.no_grad():
        model.scale.add_(torch.distributed.get_rank() if torch.distributed.is_initialized() else 0)
    trainer = quiet(root, FSDPStrategy(sharding_strategy="HYBRID_SHARD", **options), 4, max_epochs=2)
    trainer.fit(model, loader(16), loader(8))
    weight = model.layers[0].weight
    return training.weights(model), [str(placement) for placement in weight.placements], tuple(weight.device_mesh.shape)


@pytest.mark.slow
def test_replicas_of_a_divided_model_stay_equal(tmp_path):
    single = Model(ADAM)
    quiet(tmp_path, max_epochs=2).fit(single, loader(16, 8), loader(8))
    for state, placements, shape in on_ranks(4, train_replicas, tmp_path, {"device_mesh": (2, 2)}):
        assert furthest(state, training.weights(single)) < 1e-6
        assert placements == ["R", "S(0)"]
        assert shape == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sharding_strategy": "NO_SHARD"}, "write strategy='ddp'"),
        ({"sharding_strategy": "SOME_SHARD"}, "FULL_SHARD, SHARD_GRAD_OP, HYBRID_SHARD"),
        ({"device_mesh": (2, 2)}, "HYBRID_SHARD"),
        ({"mixed_precision": "bf16"}, "MixedPrecisionPolicy"),
        ({"state_dict_type": "both"}, '"full" or "sharded"'),
        ({"async_save": True}, 'needs state_dict_type="sharded"'),
        ({"start_method": "pop"}, "popen, spawn, fork, forkserver"),
    ],
)
def test_arguments_that_can_not_work_are_refused(arguments, said):
    with pytest.raises(MisconfigurationException, match=said):
        FSDPStrategy(**arguments)


@pytest.mark.parametrize("size", [0, -1, 1.5, "all"])
def test_sizes_that_are_no_sizes_are_refused(size):
    with pytest.raises(MisconfigurationException, match="tensor_parallel_size"):
        ModelParallelStrategy(tensor_parallel_size=size)


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        (FSDPStrategy(sharding_strategy="HYBRID_SHARD", device_mesh=(2, 2)), "has 4 places, .* make 2 processes"),
        (ModelParallelStrategy(2, 2), "2 .data_parallel. × 2 .tensor_parallel. has 4 places"),
    ],
)
def test_a_mesh_that_does_not_fit_the_processes_is_refused_before_they_start(tmp_path, strategy, said):
    with pytest.raises(MisconfigurationException, match=said):
        quiet(tmp_path, strategy, 2)


def test_a_scaler_is_refused_where_gradients_are_divided_in_two_ways(tmp_path):
    with pytest.raises(MisconfigurationException, match="write 'bf16-mixed'"):
        quiet(tmp_path, ModelParallelStrategy(), 2, precision="16-mixed")


def test_the_mesh_is_there_when_the_processes_have_met(tmp_path):
    with pytest.raises(RuntimeError, match="ask for it in configure_model"):
        quiet(tmp_path, FSDPStrategy(), 2).strategy.device_mesh

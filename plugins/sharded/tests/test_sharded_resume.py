"""Checkpoints of every strategy: resumed exactly, loaded by any other strategy and by any number of processes."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy

import leyden as pl
from leyden_sharded.tensors import gathered
from leyden_testing import training
from leyden_testing.ranks import on_ranks
from leyden_testing.training import loader, same_weights

from .sharded_model import STRATEGIES, Model, quiet

SIXTEEN = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
KINDS = {
    **STRATEGIES,
    "16 bits gathered": lambda **options: STRATEGIES["zero_3 by layer"](mixed_precision=SIXTEEN, **options),
    "sharded": lambda **options: STRATEGIES["zero_3 by layer"](state_dict_type="sharded", **options),
    "sharded, async": lambda **options: KINDS["sharded"](async_save=True, **options),
}


class Dropping(Model):
    """With dropout, so that random states matter."""

    def __init__(self):
        super().__init__(partial(torch.optim.Adam, lr=0.05))
        self.layers[1] = nn.Dropout(0.3)


class SaveAt(pl.Callback):
    """Saves after these batches, counted from 1."""

    def __init__(self, paths):
        self.paths = paths

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (path := self.paths.get(trainer.progress.total_batches)) is not None:
            trainer.save_checkpoint(path)


def fit(root, strategy, devices, ckpt_path=None, saves=None, **options):
    model = Dropping()
    torch.manual_seed(1)
    arguments = {"max_epochs": 2, "accumulate_grad_batches": 3, "gradient_clip_val": 1.0, **options}
    trainer = quiet(root, strategy, devices, callbacks=[SaveAt(saves or {})], **arguments)
    trainer.fit(model, loader(20, 2, shuffle=True), loader(4), ckpt_path=ckpt_path)
    return trainer, model


def resumed_twice(root, kind):
    """The weights at the end of a run, and of those resumed within an accumulation and after a step of it."""
    paths = {2: str(root / "within.ckpt"), 8: str(root / "after.ckpt")}
    ends = [training.weights(fit(root, KINDS[kind](), 2, saves=paths)[1])]
    return ends + [training.weights(fit(root, KINDS[kind](), 2, ckpt_path=path)[1]) for path in paths.values()]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("ddp", "zero_3", "zero_3_offload")])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, kind):
    for uninterrupted, within, after in on_ranks(2, resumed_twice, tmp_path, kind):
        assert same_weights(uninterrupted, within)
        assert same_weights(uninterrupted, after)


def test_an_accumulation_goes_on_under_another_strategy(tmp_path):
    def run(first, second):
        path = str(tmp_path / f"{first}-{second}.ckpt")
        whole, _ = fit(tmp_path, KINDS[first](), 2, saves={2: path}, max_steps=1)
        model = fit(tmp_path, KINDS[second](), 2, ckpt_path=path, max_steps=1)[1]
        return training.weights(whole.lightning_module), training.weights(model)

    def both():
        return [run("ddp", "zero_3 by layer"), run("zero_3 by layer", "ddp")]

    for results in on_ranks(2, both):
        for one, other in results:
            assert all(torch.allclose(one[name], other[name], rtol=0, atol=1e-7) for name in one)


def states_of(trainer, model):
    """Weights and optimizer state, whole."""
    strategy = trainer.strategy
    keep = strategy.is_global_zero
    optimizer = gathered(strategy.optimizer_state_dict(trainer.optimizers[0]), keep)
    return training.weights(model), optimizer


def save_with(root, kinds, devices):
    """Train with each and save; the path's name is that of the kind."""
    states = {}
    for kind in kinds:
        trainer, model = fit(root, KINDS[kind](), devices, max_epochs=1)
        trainer.save_checkpoint(root / kind)
        trainer.strategy.teardown()
        states[kind] = states_of(trainer, model)
    return states


def load_with(root, kinds, devices, paths):
    """What each has after loading each path, with nothing left to train."""
    found = {}
    for kind in kinds:
        for path in paths:
            strategy = "auto" if kind == "auto" else KINDS[kind]()
            found[kind, path] = states_of(*fit(root, strategy, devices, ckpt_path=root / path, max_epochs=1))
    return found


SAVED = ["ddp", "zero_1", "zero_3 by layer", "sharded"]
LOADING = ["ddp", "zero_1", "zero_2", "sharded"]


def assert_equal_states(found, saved):
    weights, optimizer = found
    assert same_weights(weights, saved[0])
    for number, values in saved[1]["state"].items():
        assert same_weights(optimizer["state"][number], values)
    assert [group["lr"] for group in optimizer["param_groups"]] == [0.05]


def is_possible(kind, path):
    return path != "sharded" or kind not in ("ddp", "auto")


@pytest.mark.parametrize("devices", [2, 1])
def test_checkpoints_are_loaded_by_other_strategies_and_other_numbers_of_processes(tmp_path, devices):
    saved = on_ranks(devices, save_with, tmp_path, SAVED, devices)[0]
    for world in (2, 1):
        for kind in LOADING:
            paths = [path for path in SAVED if is_possible(kind, path)]
            found = on_ranks(world, load_with, tmp_path, [kind], world, paths)[0]
            for path in paths:
                assert_equal_states(found[kind, path], saved[path])
    alone = load_with(tmp_path, ["auto"], 1, SAVED[:3])
    for path in SAVED[:3]:
        assert_equal_states(alone["auto", path], saved[path])


def test_plain_pytorch_loads_a_full_checkpoint(tmp_path):
    weights, optimizer = on_ranks(2, save_with, tmp_path, ["zero_3 by layer"], 2)[0]["zero_3 by layer"]
    checkpoint = torch.load(tmp_path / "zero_3 by layer", weights_only=True)
    model = Dropping()
    model.load_state_dict(checkpoint["state_dict"])
    plain = torch.optim.Adam(model.parameters())
    plain.load_state_dict(checkpoint["optimizer_states"][0])
    assert_equal_states((training.weights(model), plain.state_dict()), (weights, optimizer))

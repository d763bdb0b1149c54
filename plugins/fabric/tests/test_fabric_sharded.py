"""Strategies that divide a model among the processes, under a hand-written loop."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from leyden.fabric import Fabric
from leyden_testing.training import same_weights

from .fabric_loop import OPTIMIZERS, network, rows, train

pytest.importorskip("leyden_sharded", reason="leyden-sharded is not installed")


def strategies():
    from leyden_sharded.fsdp import FSDPStrategy
    from leyden_sharded.zero_1 import ZeRO1Strategy

    return {
        "zero_1": lambda: ZeRO1Strategy(start_method="fork"),
        "zero_2": lambda: FSDPStrategy(start_method="fork", sharding_strategy="SHARD_GRAD_OP"),
        "zero_3": lambda: FSDPStrategy(start_method="fork"),
    }


def loop(fabric, path, together):
    """Train, save half-way, spoil everything, load, and go on."""
    module, make = network(), OPTIMIZERS["Adam"]
    if together:
        model, optimizer = fabric.setup(module, make(module.parameters()))
    else:
        model = fabric.setup_module(module)
        optimizer = fabric.setup_optimizers(make(model.parameters()))
    state = {"model": model, "optimizer": optimizer, "step": 0}
    for x, y, _ in fabric.setup_dataloaders(DataLoader(rows(), 8 // fabric.world_size)):
        fabric.backward(nn.functional.mse_loss(model(x), y))
        fabric.clip_gradients(model, optimizer, max_norm=0.1)
        optimizer.step()
        optimizer.zero_grad()
        state["step"] += 1
        if state["step"] == 2:
            fabric.save(path, state)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(0)
            fabric.load(path, state)
    whole = {name: getattr(p, "full_tensor", lambda p=p: p)().detach() for name, p in module.named_parameters()}
    return state["step"], {name: value.clone() for name, value in whole.items()}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("strategy", ["zero_1", "zero_2", "zero_3"])
def test_the_weights_are_those_of_one_process(tmp_path, strategy, together):
    options = {"optimizer": "Adam", "epochs": 1, "clip": {"max_norm": 0.1}}
    expected = Fabric(accelerator="cpu").launch(train, options)["weights"]
    fabric = Fabric(accelerator="cpu", devices=2, strategy=strategies()[strategy]())
    steps, found = fabric.launch(loop, tmp_path / "state.ckpt", together)
    assert steps == 4
    assert same_weights(found, expected, 1e-6)


def clip_what_is_no_number(fabric, **options):
    """The norm of good gradients; then what is said of nan in those of one process, and whether weights have it."""
    model, optimizer = fabric.setup(module := network(), torch.optim.SGD(module.parameters(), lr=0.1))
    x, y, _ = rows(8)[slice(fabric.global_rank, 8, fabric.world_size)]
    fabric.backward(nn.functional.mse_loss(model(x), y))
    norm = fabric.clip_gradients(model, optimizer, max_norm=1.0)
    optimizer.zero_grad()
    fabric.backward(model(x * (torch.nan if fabric.is_global_zero else 1.0)).sum())
    said = ""
    try:
        fabric.clip_gradients(model, optimizer, max_norm=1.0, **options)
        optimizer.step()
    except RuntimeError as error:
        said = str(error)
    is_spoilt = [bool(getattr(p, "full_tensor", lambda p=p: p)().isnan().any()) for p in module.parameters()]
    return norm, fabric.all_gather(norm), said, any(is_spoilt)


@pytest.mark.parametrize("strategy", ["zero_2", "zero_3"])
def test_the_norm_of_divided_gradients_is_returned_and_refused_if_it_is_no_number(strategy):
    expected, *_ = Fabric(accelerator="cpu").launch(clip_what_is_no_number)
    fabric = Fabric(accelerator="cpu", devices=2, strategy=strategies()[strategy]())
    norm, all_norms, said, is_spoilt = fabric.launch(
        lambda fabric: clip_what_is_no_number(fabric, error_if_nonfinite=True)
    )
    assert torch.allclose(norm, expected)
    assert all_norms.unique().numel() == 1
    assert "non-finite" in said
    assert not is_spoilt

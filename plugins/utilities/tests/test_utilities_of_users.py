"""The helper functions, imported from ``leyden.utilities`` and from Lightning's paths."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

import leyden as pl
from leyden.utilities import MisconfigurationException


def test_grad_norm_is_that_of_the_gradients() -> None:
    layer = torch.nn.Linear(3, 2)
    assert pl.utilities.grad_norm(layer, 2) == {}
    layer(torch.ones(1, 3)).sum().backward()
    norms = pl.utilities.grad_norm(layer, 2, group_separator=".")
    assert all(isinstance(norm, torch.Tensor) for norm in norms.values())  # reading them would wait for the device
    assert {name: norm.item() for name, norm in norms.items()} == {
        "grad_2.0_norm.weight": pytest.approx(6**0.5),
        "grad_2.0_norm.bias": pytest.approx(2**0.5),
        "grad_2.0_norm_total": pytest.approx(8**0.5),
    }
    assert pl.utilities.grad_norm(layer, "inf")["grad_inf_norm_total"] == 1.0
    with pytest.raises(ValueError, match="norm_type=0 must be a positive number"):
        pl.utilities.grad_norm(layer, 0)


def test_shared_parameters_are_found_and_shared_again() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Sequential(torch.nn.Linear(2, 2)))
    assert pl.utilities.find_shared_parameters(model) == []
    model[2][0].weight = model[0].weight
    shared = pl.utilities.find_shared_parameters(model)
    assert shared == [["0.weight", "2.0.weight"]]
    model[2][0].weight = torch.nn.Parameter(torch.zeros(2, 2))
    assert pl.utilities.set_shared_parameters(model, shared) is model
    assert model[2][0].weight is model[0].weight
    assert model[2][0].bias is not model[0].bias


def test_flops_of_a_layer_forwards_and_backwards() -> None:
    with torch.device("meta"):
        layer, batch = torch.nn.Linear(8, 4), torch.ones(3, 8)
    products = 3 * 8 * 4
    assert pl.utilities.measure_flops(layer, lambda: layer(batch)) == 2 * products
    assert pl.utilities.measure_flops(layer, lambda: layer(batch), lambda output: output.sum()) == 4 * products


def test_is_overridden_knows_what_users_derive_from() -> None:
    from leyden.utilities.model_helpers import is_overridden

    class Model(pl.LightningModule):
        def training_step(self, batch: Any) -> None: ...

    class Noise(pl.Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None: ...

    assert is_overridden("training_step", Model())
    assert not is_overridden("validation_step", Model())
    assert is_overridden("on_fit_start", Noise())
    assert not is_overridden("train_dataloader", pl.LightningDataModule())
    assert not is_overridden("training_step", None)
    assert is_overridden("training_step", Model(), parent=pl.LightningModule)
    with pytest.raises(ValueError, match="give parent="):
        is_overridden("training_step", object())
    with pytest.raises(ValueError, match="LightningModule has no method 'trainig_step'"):
        is_overridden("trainig_step", Model())


def test_a_collection_is_detached_from_its_graph() -> None:
    from leyden.utilities.memory import recursive_detach

    weight = torch.ones(2, requires_grad=True)
    detached = recursive_detach({"loss": weight.sum(), "parts": [weight * 2, "text"]}, to_cpu=True)
    assert not detached["loss"].requires_grad
    assert not detached["parts"][0].requires_grad
    assert detached["parts"][1] == "text"


def test_running_out_of_memory_is_told_from_other_errors() -> None:
    from leyden.utilities.memory import is_oom_error

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**52)
    assert is_oom_error(caught.value)
    assert is_oom_error(torch.OutOfMemoryError("no memory left"))
    assert is_oom_error(MemoryError())
    assert not is_oom_error(RuntimeError("shapes differ"))
    assert not is_oom_error(MisconfigurationException("can't allocate a name"))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("grads", "grad_norm"),
        ("memory", "is_oom_error"),
        ("memory", "recursive_detach"),
        ("model_helpers", "is_overridden"),
        ("parameter_tying", "find_shared_parameters"),
        ("parameter_tying", "set_shared_parameters"),
    ],
)
def test_a_function_is_the_same_under_lightning_s_path(module: str, name: str) -> None:
    assert getattr(importlib.import_module(f"leyden.utilities.{module}"), name) is getattr(pl.utilities, name)


def test_they_are_listed_beside_the_core_s_own():
    assert {"grad_norm", "measure_flops", "move_data_to_device", "rank_zero_only"} <= set(dir(pl.utilities))

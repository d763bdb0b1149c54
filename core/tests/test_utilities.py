"""What users import from ``leyden.utilities``."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from small_model import Batches, SmallModel, quiet_trainer

import leyden as pl
from leyden.utilities.warnings import PossibleUserWarning


@pytest.mark.parametrize("name", pl.utilities.__all__)
def test_every_listed_name_is_there(name: str) -> None:
    assert getattr(pl.utilities, name) is not None


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


def test_a_batch_moves_whatever_it_is_made_of() -> None:
    from collections import namedtuple
    from dataclasses import dataclass

    pair = namedtuple("pair", ["x", "y"])

    @dataclass(frozen=True)
    class Sample:
        image: torch.Tensor
        name: str

    batch = {"a": [torch.ones(2), "text"], "b": pair(torch.ones(1), 3), "c": Sample(torch.ones(4), "n")}
    moved = pl.utilities.move_data_to_device(batch, "meta")
    assert moved["a"][0].device.type == "meta"
    assert moved["a"][1] == "text"
    assert type(moved["b"]) is pair
    assert moved["b"].x.device.type == "meta"
    assert moved["c"].image.device.type == "meta"
    assert moved["c"].name == "n"
    assert batch["a"][0].device.type == "cpu"


def test_attribute_dict_is_a_dict() -> None:
    values = pl.utilities.AttributeDict(lr=0.1)
    values.depth = 3
    assert values == {"lr": 0.1, "depth": 3}
    assert values.lr == 0.1
    with pytest.raises(AttributeError, match="there are: lr, depth"):
        values.width


def test_the_random_states_survive_isolation() -> None:
    pl.seed_everything(3, verbose=False)
    expected = torch.rand(3)
    pl.seed_everything(3, verbose=False)
    with pl.utilities.isolate_rng():
        torch.rand(100)
    assert torch.equal(torch.rand(3), expected)


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


def test_what_may_be_a_mistake_can_be_silenced(tmp_path: Path) -> None:
    model, data = SmallModel(), Batches()
    model.layer.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PossibleUserWarning, match="in evaluation mode"):
            quiet_trainer(tmp_path).fit(model, data)
        model.layer.eval()
        pl.utilities.disable_possible_user_warnings()
        quiet_trainer(tmp_path).fit(model, data)
        with pytest.raises(UserWarning, match="surely"):
            warnings.warn("surely", UserWarning, stacklevel=1)

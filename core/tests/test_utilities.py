"""What users import from ``leyden.utilities``."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

import leyden as pl
from leyden.plugin_system.manager import PluginManager
from leyden.utilities.warnings import PossibleUserWarning
from leyden_testing.models import Batches, EveryStep
from leyden_testing.training import quiet_trainer


@pytest.mark.parametrize("name", pl.utilities.__all__)
def test_every_listed_name_is_there(name: str) -> None:
    assert getattr(pl.utilities, name) is not None


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


def test_what_may_be_a_mistake_can_be_silenced(tmp_path: Path) -> None:
    model, data = EveryStep(), Batches()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PossibleUserWarning, match="nothing is validated"):
            quiet_trainer(tmp_path).fit(model, data)
        pl.utilities.disable_possible_user_warnings()
        quiet_trainer(tmp_path).fit(model, data)
        with pytest.raises(UserWarning, match="surely"):
            warnings.warn("surely", UserWarning, stacklevel=1)


def test_a_utility_that_is_not_installed_is_answered_with_its_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leyden.plugin_system.windows.discover", PluginManager)
    with pytest.raises(ImportError, match=r"There is no utility 'grad_norm'; .*: pip install leyden-utilities\.$"):
        exec("from leyden.utilities import grad_norm")
    assert not hasattr(pl.utilities, "grad_norm")

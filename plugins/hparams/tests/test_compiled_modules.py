"""Weights load whether ``torch.compile`` has wrapped a submodule or not, here and where they were saved."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from leyden.fabric import Fabric
from leyden_hparams.naming import Renamed, fitting
from leyden_testing.models import LoggingModel, rows
from leyden_testing.training import quiet_trainer, same_weights, weights

from .saving import save


def compiled(module):
    return torch.compile(module, backend="eager")


WAYS = {
    "none": lambda net: net,
    "whole": compiled,
    "inner": lambda net: nn.Sequential(net[0], compiled(net[1])),
    "both": lambda net: compiled(nn.Sequential(net[0], compiled(net[1]))),
}


class Model(LoggingModel):
    """A model that has a compiled submodule and does not call it, since compiling takes seconds."""

    def __init__(self, way="none"):
        super().__init__()
        self.save_hyperparameters()
        net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)))
        self.net = WAYS[way](net)


def plain(model):
    return {name.replace("_orig_mod.", ""): value for name, value in weights(model).items()}


@pytest.fixture(scope="module", params=WAYS)
def saved(request, tmp_path_factory):
    """A model of each way, and its checkpoint."""
    model = Model(request.param)
    return model, save(tmp_path_factory.mktemp("saved"), model)


@pytest.mark.parametrize("way", WAYS)
def test_weights_load_into_a_model_that_is_compiled_otherwise(saved, tmp_path, way):
    model, path = saved
    resumed, tested, wrapped = Model(way), Model(way), Model(way)
    quiet_trainer(tmp_path).test(tested, rows(1), ckpt_path=path, verbose=False)
    Fabric(accelerator="cpu").load(path, {"state_dict": wrapped})
    for loaded in (Model.load_from_checkpoint(path, way=way), tested, wrapped):
        assert same_weights(plain(loaded), plain(model))
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(resumed, rows(1), ckpt_path=path)
    assert trainer.global_step == 2


def test_names_that_are_missing_are_still_named(saved, tmp_path):
    _, path = saved
    checkpoint = torch.load(path, weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if name.endswith("net.0.weight") or "0.weight" in name)
    del checkpoint["state_dict"][name]
    torch.save(checkpoint, tmp_path / "less.ckpt")
    for way in WAYS:
        with pytest.raises(RuntimeError, match=r"Missing key.*weight"):
            Model.load_from_checkpoint(tmp_path / "less.ckpt", way=way)


def test_a_state_of_the_same_names_is_left_as_it_is():
    model = Model("inner")
    state = model.state_dict()
    assert fitting(model, state) is state


def test_versions_follow_their_modules():
    renamed = fitting(Model("both"), Model("none").state_dict())
    assert renamed._metadata["net._orig_mod.1._orig_mod.0"] == {"version": nn.BatchNorm1d._version}


def test_a_state_that_is_read_late_stays_so():
    class Late(OrderedDict):
        pass

    state = Renamed(Model("whole").state_dict(), {}, {})  # any mapping that is no dict
    assert len(state) == 0

    class Lazy(Renamed):
        def __getitem__(self, name):
            raise AssertionError("it is read")

    own = Model("whole").state_dict()
    lazy = fitting(Model("none"), Lazy(own, {name: name for name in own}, {}))
    assert list(lazy) == list(Model("none").state_dict())
    with pytest.raises(AssertionError, match="it is read"):
        lazy["net.0.weight"]

"""What ``get_extra_state`` of a submodule returns comes back as such, and never makes the rest unloadable."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from leyden.fabric import Fabric
from leyden_testing.models import LoggingModel, rows
from leyden_testing.training import quiet_trainer, same_weights

from .saving import Scale, save


class Layer(nn.Module):
    """A layer with extra state; it remembers which it was given."""

    def __init__(self, state: Any = None) -> None:
        super().__init__()
        self.state, self.given = state, None
        self.norm = nn.BatchNorm1d(2)

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        self.given = state


class Model(LoggingModel):
    def __init__(self, state: Any = None) -> None:
        super().__init__()
        self.inner = nn.Sequential(Layer(state))

    @property
    def given(self) -> Any:
        return self.inner[0].given


def read_in_every_way(path: Path, root: Path, **options: Any) -> list[Any]:
    """What the layer is given by each way of loading."""
    resumed, tested, wrapped = Model(), Model(), Model()
    quiet_trainer(root, max_epochs=2).fit(resumed, rows(1), ckpt_path=path, **options)
    quiet_trainer(root).test(tested, rows(1), ckpt_path=path, verbose=False, **options)
    Fabric(accelerator="cpu").load(path, {"state_dict": wrapped}, **options)
    return [Model.load_from_checkpoint(path, **options).given, resumed.given, tested.given, wrapped.given]


@pytest.mark.parametrize(
    "state",
    [b"xy", b"", io.BytesIO(b"xy"), {"buffer": io.BytesIO(b"x"), "scale": 1.0}, [io.BytesIO(b"")], {"n": 1}],
    ids=["bytes", "no bytes", "buffer", "buffer in a dict", "buffer in a list", "data"],
)
def test_bytes_and_buffers_come_back(tmp_path, state):
    for given in read_in_every_way(save(tmp_path, Model(state)), tmp_path):
        assert type(given) is type(state)
        assert contents(given) == contents(state)


def contents(state: Any) -> Any:
    if isinstance(state, io.BytesIO):
        return "BytesIO", state.getvalue()
    if isinstance(state, dict):
        return {key: contents(value) for key, value in state.items()}
    return list(map(contents, state)) if isinstance(state, list) else state


@pytest.mark.filterwarnings("ignore:Sealed in the checkpoint")
def test_what_is_sealed_is_kept_and_the_rest_loads_without_it(tmp_path):
    path = save(tmp_path, Model(Scale(2.0)))
    assert read_in_every_way(path, tmp_path, weights_only=False) == [Scale(2.0)] * 4
    model = Model(3)
    with pytest.warns(UserWarning, match=r"sealed, .*state_dict\.inner\.0\._extra_state.*weights_only=False"):
        quiet_trainer(tmp_path).test(model, rows(1), ckpt_path=path, verbose=False)
    assert model.given == 3  # its own
    with pytest.warns(UserWarning, match=r"sealed, .*_extra_state"):
        assert Model.load_from_checkpoint(path, state=4).given == 4


def test_what_can_not_be_pickled_is_named_when_it_is_saved(tmp_path):
    trainer, model = quiet_trainer(tmp_path), Model(lambda: 0)
    trainer.fit(model, rows(1))
    with pytest.warns(UserWarning, match=r"Left out of the checkpoint.*state_dict\.inner\.0\._extra_state"):
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = Model.load_from_checkpoint(tmp_path / "a.ckpt", state=5)
    assert same_weights(loaded.inner[0].norm, model.inner[0].norm)
    assert loaded.given == 5


def test_the_versions_of_modules_stay_with_the_weights(tmp_path):
    """PyTorch loads weights by them; a dict of other things beside weights had lost them."""
    seen = []

    class Watching(Model):
        def on_load_checkpoint(self, checkpoint):
            seen.append(checkpoint["state_dict"]._metadata["inner.0.norm"])

    Watching.load_from_checkpoint(save(tmp_path, Watching({"n": 1})))
    assert seen == [{"version": nn.BatchNorm1d._version}]
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]["inner.0._extra_state"] == {"n": 1}

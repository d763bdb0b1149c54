"""What is no data is sealed: opened on the user's word only, and then as it was; else named."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import leyden as pl
from leyden.fabric import Fabric
from leyden.utilities import MisconfigurationException
from leyden_testing.models import LoggingModel, rows
from leyden_testing.training import quiet_trainer, same_weights

from .saving import Any1, AnyMore, Config, Inner, Loud, Mode, Options, Scale, Size, save

SWITCH = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
SEALED = {
    "function": torch.relu,
    "builtin": len,
    "own": save,
    "partial": functools.partial(torch.clamp, min=0),
    "kind": nn.ReLU,
    "object": Scale(2.0),
    "unnamed": [Mode.FAST, Size(1), {"a": Loud("x")}],
    "options": Options(a=Scale(1.0)),
    "config": Config(3, Inner(Mode.FAST), [Size(1)]),
}

pytestmark = pytest.mark.filterwarnings(
    "ignore:Hyperparameters of .* are sealed",
    r"ignore:\w+.__init__ does not name",
    "ignore:Sealed in the checkpoint",
    f"ignore:Environment variable {SWITCH} detected",
)


class Saver(pl.Callback):
    """A callback of which some state is no data."""

    def state_dict(self) -> dict[str, Any]:
        return {"count": 3, "scale": Scale(3.0), "mode": Mode.SLOW}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loaded = state_dict


class Adding(AnyMore):
    """A model that adds things to its checkpoints."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mine"] = {"act": torch.relu, "modes": [Mode.FAST], "good": 1}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loaded = checkpoint["mine"]


@pytest.fixture
def sealed(tmp_path):
    return save(tmp_path, Adding(**SEALED, plain=1), callbacks=[Saver()])


@pytest.mark.parametrize("way", ["argument", "switch"])
def test_on_the_users_word_all_comes_back_as_it_was(sealed, tmp_path, monkeypatch, way):
    word = {"weights_only": False} if way == "argument" else {}
    if way == "switch":
        monkeypatch.setenv(SWITCH, "1")
    loaded = Adding.load_from_checkpoint(sealed, **word)
    partial = SEALED["partial"]
    assert (loaded.hparams.partial.func, loaded.hparams.partial.keywords) == (partial.func, partial.keywords)
    for name, value in SEALED.items():
        assert name == "partial" or loaded.hparams[name] == value
        assert type(loaded.hparams[name]) is type(value)
    assert loaded.loaded == {"act": torch.relu, "modes": [Mode.FAST], "good": 1}
    model, callback = Adding(), Saver()
    quiet_trainer(tmp_path, max_epochs=2, callbacks=[callback]).fit(model, rows(1), ckpt_path=sealed, **word)
    assert callback.loaded == {"count": 3, "scale": Scale(3.0), "mode": Mode.SLOW}
    assert model.loaded["act"] is torch.relu


def test_without_it_what_is_sealed_is_named_with_both_ways_out(sealed, monkeypatch):
    said = r"unnamed\[0\] \(a Mode\).*function \(a .*load_from_checkpoint\(path, .*function=.*weights_only=False"
    with pytest.raises(MisconfigurationException, match=said):
        Adding.load_from_checkpoint(sealed)
    monkeypatch.setenv(SWITCH, "1")  # which is for those who say nothing
    with pytest.raises(MisconfigurationException, match="function"):
        Adding.load_from_checkpoint(sealed, weights_only=True)
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.delenv(SWITCH)
    with pytest.raises(MisconfigurationException, match="function"):
        Adding.load_from_checkpoint(sealed, weights_only=False)


def test_arguments_that_are_given_need_not_be_opened(sealed):
    given = {name: number for number, name in enumerate(SEALED)}
    with pytest.warns(UserWarning, match=r"sealed, .*mine\.act.*weights_only=False"):
        loaded = Adding.load_from_checkpoint(sealed, **given)
    assert dict(loaded.hparams) == {**given, "plain": 1}
    assert loaded.loaded == {"modes": ["fast"], "good": 1}


def test_a_run_warns_of_what_it_does_not_open_and_goes_on(sealed, tmp_path):
    callback = Saver()
    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=[callback])
    with pytest.warns(UserWarning, match=r"callbacks\.Saver\.scale.*mine\.act.*weights_only=False") as said:
        trainer.fit(Adding(), rows(1), ckpt_path=sealed)
    assert not any("hyper_parameters" in str(one.message) for one in said)
    assert callback.loaded == {"count": 3, "mode": "slow"}


def test_a_default_is_never_taken_in_silence(tmp_path):
    class Model(LoggingModel):
        def __init__(self, act=torch.relu, scale=None, inner: Config | None = None):
            super().__init__()
            self.save_hyperparameters()

    broken = Config()
    broken.root = lambda: 0
    trainer = quiet_trainer(tmp_path)
    trainer.fit(Model(torch.tanh), rows(1))
    trainer.lightning_module.hparams.update(scale=lambda: 0, inner=broken)
    with pytest.warns(UserWarning, match=r"Left out of the checkpoint.*hyper_parameters\.scale"):
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(MisconfigurationException, match=r"inner.root \(a function\), act \(a .*scale \(a function\)"):
        Model.load_from_checkpoint(tmp_path / "a.ckpt")
    for weights_only in (None, False):
        with pytest.raises(MisconfigurationException, match=r"\(path, inner=\.\.\., scale=\.\.\.\)\.$"):
            Model.load_from_checkpoint(tmp_path / "a.ckpt", act=torch.relu, weights_only=weights_only)
    loaded = Model.load_from_checkpoint(tmp_path / "a.ckpt", scale=1, inner=2, weights_only=False)
    assert dict(loaded.hparams) == {"act": torch.tanh, "scale": 1, "inner": 2}


def test_modules_come_back_with_their_weights(tmp_path):
    class Model(LoggingModel):
        def __init__(self, backbone, twin):
            super().__init__()
            self.save_hyperparameters()
            self.backbone, self.twin = backbone, twin

    backbone = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model = Model(backbone, backbone)
    loaded = Model.load_from_checkpoint(save(tmp_path, model), weights_only=False)
    assert same_weights(loaded, model)
    assert loaded.backbone is loaded.twin


def test_one_object_comes_back_as_it_was(tmp_path):
    class Model(LoggingModel):
        def __init__(self, config):
            super().__init__()
            self.save_hyperparameters(config)
            self.config = config

    given = Config(5, Inner(Mode.FAST))
    loaded = Model.load_from_checkpoint(save(tmp_path, Model(given)), weights_only=False)
    assert loaded.config == given
    model = Model(Config(5))
    model.hparams.width = 6  # what is changed is saved, and the object no longer says it
    loaded = Model.load_from_checkpoint(save(tmp_path, model), weights_only=False)
    assert loaded.config.width == 6


def test_what_is_sealed_is_named_when_the_fit_begins_and_once(tmp_path):
    trainer = quiet_trainer(tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.fit(AnyMore(width=3, backbone=nn.Linear(2, 2), act=torch.relu), rows(1))
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        trainer.test(trainer.lightning_module, rows(1))
    [one] = [str(w.message) for w in said if "sealed" in str(w.message).lower()]
    assert "sealed in checkpoints: backbone, act. Only weights_only=False opens them" in one
    assert "load_from_checkpoint(path, backbone=...)" in one


def test_a_bare_run_is_not_told(tmp_path):
    class Model(Any1):
        def training_step(self, batch, batch_idx):
            return self(batch[0]).sum()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pl.Trainer(barebones=True, max_epochs=1, accelerator="cpu").fit(Model(torch.relu), rows(1))


def test_a_class_that_is_gone_is_an_error_with_a_way_out(tmp_path, monkeypatch):
    path = save(tmp_path, Any1(Scale(1.0)))
    monkeypatch.delattr(f"{Scale.__module__}.Scale")
    with pytest.raises(MisconfigurationException, match=r"sealed in the checkpoint \(hyper_parameters\.value\).*Scale"):
        Any1.load_from_checkpoint(path, weights_only=False)
    assert Any1.load_from_checkpoint(path, value=1).hparams.value == 1


def test_fabric(tmp_path):
    fabric = Fabric(accelerator="cpu")
    fabric.save(tmp_path / "a.ckpt", {"act": torch.relu, "modes": [Mode.FAST], "when": {"scale": Scale(1.0)}, "n": 1})
    with pytest.warns(UserWarning, match=r"sealed, .*act.*weights_only=False"):
        assert fabric.load(tmp_path / "a.ckpt") == {"modes": ["fast"], "when": {}, "n": 1}
    state = {"act": None, "n": 0}
    rest = fabric.load(tmp_path / "a.ckpt", state, weights_only=False)
    assert (state, rest) == ({"act": torch.relu, "n": 1}, {"modes": [Mode.FAST], "when": {"scale": Scale(1.0)}})


def test_a_checkpoint_without_such_values_has_nothing_of_it(tmp_path):
    saved = torch.load(save(tmp_path, AnyMore(a=1, b=[1.0, "x"])), weights_only=True)
    assert "sealed" not in saved["leyden"]


def test_weights_alone(tmp_path):
    trainer = quiet_trainer(tmp_path)
    trainer.fit(Any1(torch.relu), rows(1))
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert Any1.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=False).hparams.value is torch.relu
    with pytest.raises(MisconfigurationException, match="weights alone"):
        quiet_trainer(tmp_path).fit(Any1(1), rows(1), ckpt_path=tmp_path / "a.ckpt")

"""Configs of OmegaConf stay such: as arguments, as the one object of all hyperparameters, and anywhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from leyden_testing.models import LoggingModel

from .saving import Config, Mode, save

omegaconf = pytest.importorskip("omegaconf")
DictConfig, ListConfig, OmegaConf = omegaconf.DictConfig, omegaconf.ListConfig, omegaconf.OmegaConf

pytestmark = pytest.mark.filterwarnings("ignore:Hyperparameters of", r"ignore:\w+.__init__ does not name")


class Model(LoggingModel):
    def __init__(self, cfg, sizes=None):
        super().__init__()
        self.save_hyperparameters()
        self.cfg = cfg


class OfAll(LoggingModel):
    def __init__(self, cfg):
        super().__init__()
        self.save_hyperparameters(cfg)
        self.cfg = cfg


class Adding(Model):
    def on_save_checkpoint(self, checkpoint):
        checkpoint["config"] = {"inner": self.cfg}

    def on_load_checkpoint(self, checkpoint):
        self.loaded = checkpoint["config"]["inner"]


def config() -> Any:
    return OmegaConf.create(
        {
            "width": 3,
            "layers": [1, {"size": "${width}"}],
            "nested": {"rate": 0.1, "same": "${.rate}", "of": "${..width}"},
            "none": None,
            "later": "???",
        }
    )


RESOLVED = {
    "width": 3, "layers": [1, {"size": 3}], "nested": {"rate": 0.1, "same": 0.1, "of": 3}, "none": None, "later": "???",
}  # fmt: skip


def as_data(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True)


@pytest.mark.parametrize("model", [Model, Adding])
def test_an_argument(tmp_path, model):
    given = config()
    loaded = model.load_from_checkpoint(save(tmp_path, model(given, sizes=given.layers)))
    assert (type(loaded.cfg), type(loaded.cfg.nested), type(loaded.cfg.layers)) == (DictConfig, DictConfig, ListConfig)
    assert as_data(loaded.cfg) == RESOLVED
    assert loaded.cfg.nested.of == 3
    assert type(loaded.hparams.sizes) is ListConfig
    assert as_data(loaded.hparams.sizes) == RESOLVED["layers"]
    assert OmegaConf.is_missing(loaded.cfg, "later")
    if model is Adding:
        assert type(loaded.loaded) is DictConfig
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]["cfg"] == RESOLVED


def test_part_of_another_config(tmp_path):
    loaded = Model.load_from_checkpoint(save(tmp_path, Model(config().nested)))
    assert type(loaded.cfg) is DictConfig
    assert as_data(loaded.cfg) == RESOLVED["nested"]


def test_with_the_users_word_interpolations_stay(tmp_path):
    loaded = Model.load_from_checkpoint(save(tmp_path, Model(config())), weights_only=False)
    loaded.cfg.width = 9
    assert loaded.cfg.nested.of == loaded.cfg.layers[1].size == 9


@pytest.mark.parametrize("word", [{}, {"weights_only": False}])
def test_the_object_of_all_hyperparameters(tmp_path, word):
    given = config()
    del given.later  # a config that lacks a value can't be taken apart
    model = OfAll(given)
    assert model.hparams.nested.rate == 0.1
    loaded = OfAll.load_from_checkpoint(save(tmp_path, model), **word)
    assert type(loaded.cfg) is DictConfig
    assert loaded.cfg == given
    assert OmegaConf.is_interpolation(loaded.cfg.nested, "of") is bool(word)
    changed = OfAll.load_from_checkpoint(tmp_path / "a.ckpt", cfg={"width": 7}, **word)
    assert changed.cfg.width == 7
    assert changed.cfg.nested.rate == 0.1


def test_its_flags(tmp_path):
    given = config()
    OmegaConf.set_struct(given, True)
    OmegaConf.set_readonly(given, True)
    cfg = Model.load_from_checkpoint(save(tmp_path, Model(given))).cfg
    with pytest.raises(omegaconf.errors.ReadonlyConfigError):
        cfg.width = 4
    with pytest.raises(omegaconf.errors.ConfigAttributeError):
        cfg.unknown


def test_values_that_are_no_data_in_a_config(tmp_path):
    given = OmegaConf.create({"mode": Mode.FAST, "root": Path("x"), "n": 1})
    path = save(tmp_path, Model(given))
    assert Model.load_from_checkpoint(path, weights_only=False).cfg == given
    with pytest.raises(TypeError, match=r"cfg\.mode \(a Mode\)"):
        Model.load_from_checkpoint(path)


def test_a_resolver_of_the_users_is_called_when_it_is_saved_and_not_when_it_is_loaded(tmp_path):
    calls: list[Any] = []
    register = getattr(OmegaConf, "register_resolver", OmegaConf.register_new_resolver)
    register("counted", lambda value: calls.append(value) or len(calls), replace=True)
    try:
        path = save(tmp_path, Model(OmegaConf.create({"n": "${counted:1}", "text": "\\${counted:2}"})))
        saved = len(calls)
        cfg = Model.load_from_checkpoint(path).cfg
        assert (cfg.n, cfg.text) == (
            torch.load(path, weights_only=True)["hyper_parameters"]["cfg"]["n"],
            "${counted:2}",
        )
        assert len(calls) == saved
    finally:
        OmegaConf.clear_resolver("counted")


def test_without_omegaconf_it_is_said(tmp_path, monkeypatch):
    path = save(tmp_path, Model(config()))
    monkeypatch.setitem(__import__("sys").modules, "omegaconf", None)
    with pytest.raises(TypeError, match=r"cfg \(a DictConfig\).*load_from_checkpoint\(path, cfg=\.\.\.\)"):
        Model.load_from_checkpoint(path)


def test_a_structured_config_is_made_again_by_its_dataclass(tmp_path):
    class Typed(LoggingModel):
        def __init__(self, cfg: Config | DictConfig):
            super().__init__()
            self.save_hyperparameters()
            self.cfg = cfg

    given = OmegaConf.create({"width": 4})
    assert Typed.load_from_checkpoint(save(tmp_path, Typed(given))).cfg == given
    assert Typed.load_from_checkpoint(save(tmp_path, Typed(Config(5)))).cfg == Config(5)

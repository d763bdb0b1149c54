"""``save_hyperparameters`` and ``load_from_checkpoint``: what is kept, and how a module is made again from it."""

import inspect
from argparse import Namespace
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import leyden as pl
from leyden.plugin_system.manager import PluginManager
from leyden.utilities import AttributeDict
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.models import LoggingModel, RecordingLogger, rows
from leyden_testing.training import quiet_trainer, same_weights


class All(LoggingModel):
    def __init__(self, width, depth=2, *, rate=0.1, **others):
        super().__init__()
        self.save_hyperparameters()


class Named(LoggingModel):
    def __init__(self, width, depth=2, rate=0.1):
        super().__init__()
        self.save_hyperparameters("width", "rate")


class Ignoring(LoggingModel):
    def __init__(self, width, backbone=None, loss=None):
        super().__init__()
        self.save_hyperparameters(ignore=["backbone", "loss"])


class OneObject(LoggingModel):
    def __init__(self, config, extra=1):
        super().__init__()
        self.save_hyperparameters(config)


@dataclass
class Config:
    width: int = 3
    rate: float = 0.1


# -- the four forms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: All(3), {"width": 3, "depth": 2, "rate": 0.1}),
        (lambda: All(3, 4, rate=1, more="x"), {"width": 3, "depth": 4, "rate": 1, "more": "x"}),
        (lambda: Named(3, 4), {"width": 3, "rate": 0.1}),
        (lambda: Ignoring(3, nn.Linear(1, 1), loss=len), {"width": 3}),
        (lambda: OneObject({"a": 1, "b": {"c": 2}}), {"a": 1, "b": {"c": 2}}),
        (lambda: OneObject(Namespace(a=1)), {"a": 1}),
        (lambda: OneObject(Config()), {"width": 3, "rate": 0.1}),
        (LoggingModel, {}),
    ],
)
def test_what_is_kept(model, expected):
    model = model()
    assert dict(model.hparams) == expected
    assert dict(model.hparams_initial) == expected


def test_access_by_attribute_and_by_key():
    hparams = All(3).hparams
    assert hparams.width == hparams["width"] == 3
    hparams.width = 4
    hparams["new"] = 5
    assert (hparams["width"], hparams.new) == (4, 5)
    with pytest.raises(AttributeError, match="nothing"):
        hparams.nothing
    assert isinstance(hparams, AttributeDict)
    assert isinstance(hparams, dict)


def test_they_are_printed_in_lines():
    assert str(All(3).hparams) == '"width": 3\n"depth": 2\n"rate":  0.1'


def test_initial_values_stay():
    model = OneObject({"layers": [1]})
    model.hparams.layers.append(2)
    assert model.hparams_initial == {"layers": [1]}
    model.hparams_initial.layers.append(3)
    assert model.hparams_initial == {"layers": [1]}


def test_inheritance_keeps_the_arguments_of_both():
    class Child(All):
        def __init__(self, width, own=7, **others):
            super().__init__(width, **others)
            self.save_hyperparameters()

    class Silent(All):
        def __init__(self, own=7):
            super().__init__(width=1)

    assert dict(Child(3, rate=0.5).hparams) == {"width": 3, "own": 7, "depth": 2, "rate": 0.5}
    assert dict(Silent().hparams) == {"own": 7, "width": 1, "depth": 2, "rate": 0.1}


def test_several_calls_add_up():
    class Model(LoggingModel):
        def __init__(self, a, b, c):
            super().__init__()
            self.save_hyperparameters("a")
            self.save_hyperparameters("c")

    assert dict(Model(1, 2, 3).hparams) == {"a": 1, "c": 3}


def test_ignore_one_name_and_of_an_object():
    class Model(LoggingModel):
        def __init__(self, a, b):
            super().__init__()
            self.save_hyperparameters(ignore="b")

    class Of(LoggingModel):
        def __init__(self, config):
            super().__init__()
            self.save_hyperparameters(config, ignore=["b"])

    assert dict(Model(1, 2).hparams) == {"a": 1}
    assert dict(Of({"a": 1, "b": 2}).hparams) == {"a": 1}


def test_a_frame_from_elsewhere():
    def save(model):
        model.save_hyperparameters(frame=inspect.currentframe().f_back)

    class Model(LoggingModel):
        def __init__(self, a, b=2):
            super().__init__()
            save(self)

    assert dict(Model(1).hparams) == {"a": 1, "b": 2}


def test_changed_arguments_are_kept_as_they_are_at_the_call():
    class Model(LoggingModel):
        def __init__(self, a):
            super().__init__()
            a = a * 10
            self.save_hyperparameters()

    assert Model(1).hparams.a == 10


def test_what_is_no_set_of_hyperparameters_is_refused():
    with pytest.raises(ValueError, match="save_hyperparameters got 5"):
        OneObject(5)


# -- loggers ------------------------------------------------------------------------------------------------


class Data(pl.LightningDataModule):
    def __init__(self, size=2, width=None):
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self):
        return rows(self.hparams.size)


class Unlogged(LoggingModel):
    def __init__(self, width):
        super().__init__()
        self.save_hyperparameters(logger=False)


def logged(tmp_path, model, data=None, **options):
    logger = RecordingLogger()
    trainer = quiet_trainer(tmp_path, logger=logger, log_every_n_steps=1, **options)
    trainer.fit(model, None if data else rows(1), datamodule=data)
    return logger.hyperparameters


def test_loggers_get_those_of_module_and_data_module(tmp_path):
    assert logged(tmp_path, All(3), Data(1, width=3)) == [{"width": 3, "depth": 2, "rate": 0.1, "size": 1}]
    assert logged(tmp_path, Unlogged(3)) == []
    assert logged(tmp_path, All(3), enable_autolog_hparams=False) == []


def test_two_values_of_one_name_are_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match="'width' is 3 in the module and 4 in the data module"):
        logged(tmp_path, All(3), Data(1, width=4))
    assert logged(tmp_path, Unlogged(3), Data(1, width=4)) == [{"size": 1, "width": 4}]


# -- loading ------------------------------------------------------------------------------------------------


def checkpoint_of(tmp_path, model, data=None):
    trainer = quiet_trainer(tmp_path)
    trainer.fit(model, None if data else rows(1), datamodule=data)
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    return tmp_path / "saved.ckpt"


@pytest.mark.parametrize(
    "make",
    [lambda: All(3, rate=0.5, more=1), lambda: Named(3), lambda: OneObject({"a": 1}), lambda: OneObject(Config(7))],
)
def test_a_module_is_made_again(tmp_path, make):
    model = make()
    loaded = type(model).load_from_checkpoint(checkpoint_of(tmp_path, model))
    assert dict(loaded.hparams) == dict(model.hparams)
    assert same_weights(loaded, model)
    assert loaded.training


def test_one_object_comes_back_with_attributes(tmp_path):
    class Model(LoggingModel):
        def __init__(self, config):
            super().__init__()
            self.save_hyperparameters(config)
            self.width = config.width

    loaded = Model.load_from_checkpoint(checkpoint_of(tmp_path, Model(Config(7))))
    assert loaded.width == 7


def test_arguments_override_what_was_saved(tmp_path):
    loaded = All.load_from_checkpoint(checkpoint_of(tmp_path, All(3, more=1)), width=5, other=2)
    assert dict(loaded.hparams) == {"width": 5, "depth": 2, "rate": 0.1, "more": 1, "other": 2}
    partly = OneObject.load_from_checkpoint(checkpoint_of(tmp_path, OneObject({"a": 1, "b": 2})), config={"b": 3})
    assert dict(partly.hparams) == {"a": 1, "b": 3}


def test_modules_as_arguments_are_passed_when_loading(tmp_path):
    class Wrapper(LoggingModel):
        def __init__(self, backbone, width=1):
            super().__init__()
            self.save_hyperparameters(ignore=["backbone"])
            self.backbone = backbone

    model = Wrapper(nn.Linear(2, 2))
    path = checkpoint_of(tmp_path, model)
    with pytest.raises(MisconfigurationException, match=r"Wrapper can't be made.*backbone.*load_from_checkpoint"):
        Wrapper.load_from_checkpoint(path)
    assert same_weights(Wrapper.load_from_checkpoint(path, backbone=nn.Linear(2, 2)), model)


def test_a_module_that_no_longer_takes_an_argument(tmp_path):
    path = checkpoint_of(tmp_path, All(3, more=1))

    class Fewer(LoggingModel):
        def __init__(self, width):
            super().__init__()
            self.width = width

    assert Fewer.load_from_checkpoint(path).width == 3


def test_an_error_of_the_users_own_init_is_not_taken_for_ours(tmp_path):
    path = checkpoint_of(tmp_path, All(3))

    class Broken(LoggingModel):
        def __init__(self, width):
            super().__init__()
            len(width)

    with pytest.raises(TypeError, match=r"object of type 'int' has no len\(\)"):
        Broken.load_from_checkpoint(path)


@pytest.mark.parametrize("strict", [None, True, False])
def test_strictness(tmp_path, strict):
    path = checkpoint_of(tmp_path, All(3))

    class More(All):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.more = nn.Linear(1, 1)

    if strict is False:
        with pytest.warns(UserWarning, match=r"missing \['more.weight', 'more.bias'\]"):
            More.load_from_checkpoint(path, strict=False)
    else:
        with pytest.raises(RuntimeError, match=r"more\.weight"):
            More.load_from_checkpoint(path, strict=strict)


def test_strict_loading_of_the_module_decides_by_default(tmp_path):
    class Partly(All):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.strict_loading = False
            self.frozen = nn.Linear(1, 1)

        def state_dict(self):
            return {name: value for name, value in super().state_dict().items() if "frozen" not in name}

    path = checkpoint_of(tmp_path, Partly(3))
    assert "frozen.weight" not in torch.load(path, weights_only=True)["state_dict"]
    with pytest.warns(UserWarning, match=r"frozen\.weight"):
        Partly.load_from_checkpoint(path)


def test_map_location(tmp_path):
    path, asked = checkpoint_of(tmp_path, All(3)), []
    All.load_from_checkpoint(path, map_location=lambda storage, where: asked.append(where) or storage)
    assert set(asked) == {"cpu"}
    for location in ("cpu", torch.device("cpu"), {"cuda:0": "cpu"}):
        assert All.load_from_checkpoint(path, map_location=location).device.type == "cpu"


def test_loading_needs_an_installed_plugin(tmp_path, monkeypatch):
    path = checkpoint_of(tmp_path, All(3))
    monkeypatch.setattr("leyden.mixins.hparams.discover", PluginManager)
    with pytest.raises(ImportError, match=r"no checkpoint loader 'hyperparameters'; .*pip install leyden-hparams\.$"):
        All.load_from_checkpoint(path)


def test_hooks_of_loading(tmp_path):
    class Own(All):
        def configure_model(self):
            if not hasattr(self, "late"):
                self.late = nn.Linear(1, 1)

        def on_save_checkpoint(self, checkpoint):
            checkpoint["own"] = 5

        def on_load_checkpoint(self, checkpoint):
            self.own = checkpoint["own"]

    model = Own(3)
    loaded = Own.load_from_checkpoint(checkpoint_of(tmp_path, model))
    assert loaded.own == 5
    assert same_weights(loaded, model)


def test_loading_on_an_instance_is_refused(tmp_path):
    path = checkpoint_of(tmp_path, All(3))
    with pytest.raises(TypeError, match=r"All\.load_from_checkpoint"):
        All(3).load_from_checkpoint(path)


def test_loading_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        All.load_from_checkpoint(tmp_path / "none.ckpt")


def test_data_modules_are_made_again(tmp_path):
    class Stateful(pl.LightningDataModule):
        def __init__(self, size=2):
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self):
            return rows(1)

        def state_dict(self):
            return {"seen": 3}

        def load_state_dict(self, state_dict):
            self.seen = state_dict["seen"]

    path = checkpoint_of(tmp_path, All(3), Stateful(size=1))
    loaded = Stateful.load_from_checkpoint(path)
    assert (dict(loaded.hparams), loaded.seen) == ({"size": 1}, 3)
    assert Stateful.load_from_checkpoint(path, size=4).hparams.size == 4

"""``save_hyperparameters`` in its forms, and ``load_from_checkpoint``."""

from argparse import Namespace
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from leyden_testing.models import rows

from .parity_harness import parity

FORMS = {
    "all": ((), {}),
    "names": (("width", "name"), {}),
    "ignore one": ((), {"ignore": "name"}),
    "ignore several": ((), {"ignore": ["name", "nested"]}),
    "a dict": (({"width": 7, "other": 1},), {}),
    "a namespace": ((Namespace(width=7, other=1),), {}),
    "an empty dict": (({},), {}),
    "not for the logger": ((), {"logger": False}),
}


@parity
@pytest.mark.parametrize("form", FORMS)
def test_form_of_save_hyperparameters(pl, lab, form):
    arguments, options = FORMS[form]

    class Model(lab.Model):
        def __init__(self, width, name="x", *rest, nested=None, **more):
            super().__init__()
            self.save_hyperparameters(*arguments, **options)

    model = lab.model(Model, 5, nested={"a": 1}, extra=2)
    lab.note("hparams", dict(model.hparams))
    lab.note("initial", dict(model.hparams_initial))
    lab.trainer(max_epochs=1).fit(model, rows(1))


@parity
def test_saved_twice_and_changed(pl, lab):
    class Model(lab.Model):
        def __init__(self, width, name="x"):
            super().__init__()
            self.save_hyperparameters("width")
            self.save_hyperparameters({"other": 3})
            self.hparams.width = 9

    model = Model(5)
    lab.note("hparams", dict(model.hparams))
    lab.note("initial", dict(model.hparams_initial))
    lab.note("by key and attribute", [model.hparams["width"], model.hparams.width, "other" in model.hparams])
    with lab.raises("AttributeError"):
        _ = model.hparams.missing


@parity
def test_inherited(pl, lab):
    class Base(lab.Model):
        def __init__(self, a, b=2):
            super().__init__()
            self.save_hyperparameters()

    class Child(Base):
        def __init__(self, c, *args, d=4, **kwargs):
            super().__init__(*args, **kwargs)
            self.after = 1

    class Saving(Base):
        def __init__(self, c, a=1):
            super().__init__(a)
            self.save_hyperparameters()

    lab.note("child", dict(Child(3, 1, b=7).hparams))
    lab.note("saving", dict(Saving(3).hparams))


@parity
def test_of_a_dataclass(pl, lab):
    @dataclass
    class Data(lab.DataModule):
        size: int
        name: str = "x"

        def __post_init__(self):
            super().__init__()
            self.save_hyperparameters()

    lab.note("hparams", dict(Data(3).hparams))


@parity
@pytest.mark.parametrize("value", [5, [1, 2]], ids=str)
def test_of_something_else(pl, lab, value):
    class Model(lab.Model):
        def __init__(self, config):
            super().__init__()
            self.save_hyperparameters(config)

    with lab.raises("ValueError"):
        Model(value)


def make_sized_model(lab):
    class Model(lab.Model):
        def __init__(self, width, scale=1.0):
            super().__init__()
            self.save_hyperparameters()
            self.layer = nn.Linear(4, 2)
            self.extra = nn.Linear(2, width)

    return Model


def save_trained(lab, model):
    path = lab.tmp_path / "model.ckpt"
    trainer = lab.trainer(max_epochs=1)
    trainer.fit(model, rows(2))
    trainer.save_checkpoint(path)
    return path


@parity
@pytest.mark.parametrize(
    "options", [{}, {"scale": 3.0}, {"map_location": "cpu"}, {"map_location": torch.device("cpu")}], ids=str
)
def test_load_from_checkpoint(pl, lab, options):
    Model = make_sized_model(lab)
    path = save_trained(lab, lab.model(Model, 3))
    loaded = Model.load_from_checkpoint(path, **options)
    lab.note("hparams", dict(loaded.hparams))
    lab.note("weights", loaded.state_dict())
    lab.note("state", [loaded.training, str(loaded.device)])


@parity
def test_load_from_checkpoint_without_hyperparameters(pl, lab):
    class Model(lab.Model):
        def __init__(self, width):
            super().__init__()
            self.extra = nn.Linear(2, width)

    path = save_trained(lab, lab.model(Model, 3))
    lab.note("weights", Model.load_from_checkpoint(path, width=3).state_dict())
    with lab.raises("TypeError"):
        Model.load_from_checkpoint(path)


@parity
@pytest.mark.parametrize("strict", [True, False, None])
def test_load_from_checkpoint_into_another_model(pl, lab, strict):
    class Bigger(lab.Model):
        def __init__(self):
            super().__init__()
            self.new = nn.Linear(2, 2)

    path = save_trained(lab, lab.model())
    if strict is False:
        lab.note("layer", Bigger.load_from_checkpoint(path, strict=False).layer.weight)
    else:
        with lab.raises("RuntimeError"):
            Bigger.load_from_checkpoint(path, strict=strict)


@parity
def test_strict_loading_as_an_attribute(pl, lab):
    class Part(lab.Model):
        def __init__(self):
            super().__init__()
            self.frozen, self.dropout = nn.Linear(2, 2), nn.Identity()
            self.strict_loading = False

        def state_dict(self):
            return {name: value for name, value in super().state_dict().items() if not name.startswith("frozen")}

    path = save_trained(lab, lab.model(Part))
    lab.note("weights", Part.load_from_checkpoint(path).layer.weight)
    lab.trainer(max_epochs=2).fit(lab.model(Part), rows(2), ckpt_path=path)


@parity
def test_load_from_a_path_that_does_not_exist(pl, lab):
    with lab.raises("FileNotFoundError"):
        lab.Model.load_from_checkpoint(lab.tmp_path / "missing.ckpt")


@parity
def test_load_from_checkpoint_of_an_instance(pl, lab):
    path = save_trained(lab, lab.model())
    with lab.raises("TypeError"):
        lab.Model().load_from_checkpoint(path)


@parity
def test_hyperparameters_from_a_file(pl, lab):
    Model = make_sized_model(lab)
    path = save_trained(lab, lab.model(Model, 3))
    file = lab.tmp_path / "hparams.yaml"
    file.write_text("width: 3\nscale: 8.0\n")
    lab.note("hparams", dict(Model.load_from_checkpoint(path, hparams_file=file).hparams))


@parity
def test_datamodule_from_a_checkpoint(pl, lab):
    class Data(lab.DataModule):
        def __init__(self, size, name="x"):
            super().__init__()
            self.save_hyperparameters()

    path = lab.tmp_path / "data.ckpt"
    trainer = lab.trainer(max_epochs=1)
    trainer.fit(lab.model(), datamodule=lab.datamodule(Data, 3))
    trainer.save_checkpoint(path)
    lab.note("hparams", dict(Data.load_from_checkpoint(path, name="y").hparams))


@parity
def test_hook_that_changes_a_checkpoint_while_loading(pl, lab):
    class Model(lab.Model):
        def on_load_checkpoint(self, checkpoint):
            checkpoint["state_dict"]["layer.bias"] = torch.zeros(2)

    path = save_trained(lab, lab.model(Model))
    lab.note("weights", Model.load_from_checkpoint(path).state_dict())

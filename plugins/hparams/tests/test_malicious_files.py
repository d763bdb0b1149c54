"""Files that were made to do harm: nothing in them runs, whatever reads them, until the user says so."""

from __future__ import annotations

import io
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden as pl
from leyden.fabric import Fabric
from leyden.plugins import discover
from leyden.utilities import MisconfigurationException
from leyden.utilities.exceptions import CheckpointCorruptedError
from leyden_hparams.kinds import KINDS
from leyden_testing.models import LoggingModel, rows
from leyden_testing.training import quiet_trainer

from .saving import Mode

pytestmark = pytest.mark.filterwarnings("ignore")  # what is said of these files is tested elsewhere
ERRORS = (MisconfigurationException, CheckpointCorruptedError, RuntimeError, KeyError, TypeError)


class Exploit:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


class Model(LoggingModel):
    """A model with hyperparameters of several types, and a submodule with extra state."""

    def __init__(self, mode: Mode = Mode.FAST, value: Any = None, **others: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.extra = Extra()

    validation_step = LoggingModel.test_step


class Extra(torch.nn.Module):
    def get_extra_state(self) -> Any:
        return {"n": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


class Data(pl.LightningDataModule):
    """A data module with hyperparameters and state."""

    def __init__(self, mode: Mode = Mode.FAST, value: Any = None, **others: Any) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> Any:
        return rows(1)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader

    def state_dict(self) -> dict[str, Any]:
        return {"n": 1}


READERS = {
    "fit": lambda path, root: quiet_trainer(root, max_epochs=2).fit(Model(), datamodule=Data(), ckpt_path=path),
    "validate": lambda path, root: quiet_trainer(root).validate(Model(), datamodule=Data(), ckpt_path=path),
    "test": lambda path, root: quiet_trainer(root).test(Model(), datamodule=Data(), ckpt_path=path),
    "predict": lambda path, root: quiet_trainer(root).predict(Model(), datamodule=Data(), ckpt_path=path),
    "module": lambda path, root: Model.load_from_checkpoint(path),
    "module, given": lambda path, root: Model.load_from_checkpoint(path, mode=1, value=2),
    "data module": lambda path, root: Data.load_from_checkpoint(path),
    "open file": lambda path, root: Model.load_from_checkpoint(io.BytesIO(path.read_bytes())),
    "fabric": lambda path, root: Fabric(accelerator="cpu").load(path),
    "fabric, state": lambda path, root: Fabric(accelerator="cpu").load(path, {"state_dict": Model()}, strict=False),
    "fabric, raw": lambda path, root: Fabric(accelerator="cpu").load_raw(path, Model(), strict=False),
}


def record(*path: Any, kind: Any = None, detail: Any = None, index: Any = None, lost: bool = False) -> list[Any]:
    return [list(path), ".".join(map(str, path)), "os.system", kind, detail, index, lost]


def bytes_of(*values: Any, save: Any = torch.save) -> Any:
    buffer = io.BytesIO()
    save(list(values), buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


PLACES = [
    ("hyper_parameters", "value"), ("datamodule_hyper_parameters", "value"), ("state_dict", "extra._extra_state"),
    ("state_dict", "layer.weight"), ("callbacks", "a"), ("optimizer_states", 0), ("loops",), ("leyden", "ranks", 0),
    ("Data", "n"), ("source", "hyper_parameters"), ("lr_schedulers",), ("epoch",), ("nowhere", "at", 5),
]  # fmt: skip
FORMS = {
    "sealed": lambda e: {"records": [record(*place, index=0, lost=True) for place in PLACES], "pickle": bytes_of(e)},
    "a bare pickle": lambda e: {"records": [record("epoch", index=0)], "pickle": bytes_of(e, save=pickle.dump)},
    "bytes": lambda e: {"records": [record("hyper_parameters", "value", index=0)], "pickle": pickle.dumps(e)},
    "bytes at the place": lambda e: {"records": [record("hyper_parameters", "value", kind="BytesIO")], "pickle": None},
    "a class in the kind": lambda e: {"records": [record(*place, kind="os.mkdir") for place in PLACES], "pickle": None},
    "a kind for each": lambda e: {
        "records": [
            record(*place, kind=kind, detail=detail)
            for kind in KINDS
            for place in PLACES
            for detail in (None, e.path, [1, 2, 3], {"a": e.path}, ("<U2000000000",), "<U2000000000", "O", -1)
        ],
        "pickle": None,
    },
    "no records": lambda e: {"pickle": bytes_of(e)},
    "records of nonsense": lambda e: {"records": [1, None, "x"], "pickle": bytes_of(e)},
    "empty paths": lambda e: {"records": [record(kind="config"), record(index=0)], "pickle": bytes_of(e)},
    "paths of lists": lambda e: {"records": [record([1], {"a": 2}, index=0)], "pickle": bytes_of(e)},
    "long paths": lambda e: {"records": [record(*["a"] * 3000, kind="Path")], "pickle": bytes_of(e)},
    "no dict": lambda e: [e.path],
    "nothing": lambda e: None,
    "an Enum's other member": lambda e: {
        "records": [record("hyper_parameters", "mode", detail="__class__")],
        "pickle": None,
    },
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a run, to be altered."""
    trainer = quiet_trainer(tmp_path_factory.mktemp("trained"))
    trainer.fit(Model(), datamodule=Data())
    path = tmp_path_factory.mktemp("saved") / "a.ckpt"
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_runs_unasked(trained, tmp_path, form):
    exploit = Exploit(tmp_path / "made")
    checkpoint = {**trained, "leyden": {**trained["leyden"], "sealed": FORMS[form](exploit)}}
    checkpoint["hyper_parameters"] = {**trained["hyper_parameters"], "value": pickle.dumps(exploit)}
    path = tmp_path / "evil.ckpt"
    torch.save(checkpoint, path)
    for name, read in READERS.items():
        with suppress(*ERRORS):
            read(path, tmp_path)
        assert not (tmp_path / "made").exists(), name


def test_the_same_file_runs_when_it_is_trusted(trained, tmp_path):
    """So that the test before it would notice."""
    sealed = FORMS["sealed"](Exploit(tmp_path / "made"))
    torch.save({**trained, "leyden": {**trained["leyden"], "sealed": sealed}}, tmp_path / "evil.ckpt")
    with suppress(*ERRORS):
        Model.load_from_checkpoint(tmp_path / "evil.ckpt", weights_only=False)
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("key", ["pytorch-lightning_version", "loops", "callbacks", "hyper_parameters", "mine"])
def test_nothing_pickled_is_opened_unasked(trained, tmp_path, key):
    path = tmp_path / "evil.ckpt"
    torch.save({**trained, key: Exploit(tmp_path / "made")}, path)
    for read in READERS.values():
        with pytest.raises(RuntimeError, match=r"no data.*weights_only=False only if you trust"):
            read(path, tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "parts",
    [
        {"hparams_name": ["x"]},
        {"hparams_name": {"a": 1}},
        {"hyper_parameters": {1: 2}},
        {"hyper_parameters": {b"x": 1}},
    ],
)
def test_names_that_are_none_are_said_to_be_none(trained, tmp_path, parts):
    torch.save({**trained, **parts}, tmp_path / "odd.ckpt")
    with pytest.raises(MisconfigurationException):
        Model.load_from_checkpoint(tmp_path / "odd.ckpt")


def test_a_class_is_taken_from_the_code_and_never_from_the_file(trained, tmp_path):
    """The names of classes in a file are compared with those that the code names, and shown."""
    path = tmp_path / "evil.ckpt"
    named = record("hyper_parameters", "mode", detail="FAST")
    for was in ("os.system", "builtins.eval", "posix.system", "antigravity.Mode", "__main__.Mode"):
        named[2] = was
        sealed = {"records": [named], "pickle": None}
        torch.save({**trained, "leyden": {**trained["leyden"], "sealed": sealed}}, path)
        assert Model.load_from_checkpoint(path).hparams.mode is Mode.FAST
    assert discover()


def test_a_config_calls_no_resolver_that_a_file_names(trained, tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    called: list[Any] = []
    register = getattr(omegaconf.OmegaConf, "register_resolver", omegaconf.OmegaConf.register_new_resolver)
    register("evil", called.append, replace=True)
    text = "${evil:1} \\${evil:2} \\\\${evil:3} ${evil:${evil:4}}"
    checkpoint = {**trained, "hyper_parameters": {"value": {"a": text, "b": [text, {"c": text}]}, "mode": "fast"}}
    sealed = {"records": [record("hyper_parameters", "value", kind="config", detail=[False, False])], "pickle": None}
    torch.save({**checkpoint, "leyden": {**trained["leyden"], "sealed": sealed}}, tmp_path / "evil.ckpt")
    config = Model.load_from_checkpoint(tmp_path / "evil.ckpt").hparams.value
    assert isinstance(config, omegaconf.DictConfig)
    assert omegaconf.OmegaConf.to_container(config, resolve=True) == {"a": text, "b": [text, {"c": text}]}
    assert not called

"""The Trainer's arguments: what they come to, and that whatever is written either works or is refused in a sentence."""

from __future__ import annotations

import inspect
import math
import tempfile
import warnings
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import leyden as pl
from leyden.utilities import MisconfigurationException
from leyden_testing.models import Batches, EveryStep
from leyden_testing.training import quiet_trainer

ALIKE = {"deadline": None, "derandomize": True}  # the same examples in every run, however slow the machine is
ROOT = Path(tempfile.gettempdir())  # nothing is written: there is no logger and no checkpoint
REFUSALS = (MisconfigurationException, ValueError, TypeError)


# -- what they come to ------------------------------------------------------------------------------------

COME_TO = [
    ({}, {"limit_train_batches": 1.0, "val_check_interval": 1.0, "num_sanity_val_steps": 2, "log_every_n_steps": 50}),
    ({}, {"max_steps": -1, "accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "gradient_clip_val": None}),
    ({"num_sanity_val_steps": -1}, {"num_sanity_val_steps": math.inf}),
    ({"limit_val_batches": 0}, {"limit_val_batches": 0}),
    ({"overfit_batches": 3}, {"limit_train_batches": 3, "limit_val_batches": 3, "limit_test_batches": 1.0}),
    ({"fast_dev_run": True}, {"limit_train_batches": 1, "limit_predict_batches": 1, "max_steps": 1, "max_epochs": 1}),
    ({"fast_dev_run": 4, "val_check_interval": 9}, {"limit_test_batches": 4, "val_check_interval": 1.0}),
    ({"max_time": "01:02:03:04"}, {"max_time": timedelta(days=1, hours=2, minutes=3, seconds=4)}),
    ({"max_time": {"minutes": 5}}, {"max_time": timedelta(minutes=5)}),
    ({"val_check_interval": "00:00:00:10"}, {"val_check_interval": timedelta(seconds=10)}),
    ({"max_epochs": np.int64(3)}, {"max_epochs": 3}),
    ({"limit_train_batches": np.float32(0.5)}, {"limit_train_batches": 0.5}),
    ({"limit_train_batches": np.int32(7)}, {"limit_train_batches": 7}),
    ({"val_check_interval": Fraction(1, 4)}, {"val_check_interval": 0.25}),
    ({"enable_progress_bar": 0}, {"enable_progress_bar": False}),
    ({"default_root_dir": ROOT / "x"}, {"default_root_dir": str(ROOT / "x")}),
    ({"precision": 32}, {"precision": "32-true"}),
    ({"devices": "1"}, {"num_devices": 1}),
    ({"barebones": True, "enable_checkpointing": None}, {"log_every_n_steps": 0, "num_sanity_val_steps": 0}),
]


@pytest.mark.parametrize(("arguments", "expected"), COME_TO, ids=str)
def test_what_an_argument_comes_to(tmp_path, arguments, expected):
    trainer = quiet_trainer(tmp_path, **{"max_epochs": None, **arguments})
    for name, value in expected.items():
        found = getattr(trainer, name)
        assert found == value
        assert type(found) is type(value)


def test_the_working_directory_is_the_default_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert quiet_trainer(None).default_root_dir == str(tmp_path)


# -- what is refused --------------------------------------------------------------------------------------

REFUSED = [
    ("max_epochs", -2, "max_epochs=-2 must be an integer of at least -1."),
    ("max_epochs", 1.5, "max_epochs=1.5 must be an integer of at least -1."),
    ("max_epochs", True, "max_epochs=True must be an integer of at least -1."),
    ("accumulate_grad_batches", 0, "accumulate_grad_batches=0 must be an integer of at least 1."),
    ("num_nodes", 0, "num_nodes=0 must be an integer of at least 1."),
    ("limit_train_batches", 1.1, "limit_train_batches=1.1 must be a fraction from 0.0 to 1.0, or a number of batches."),
    (
        "limit_val_batches",
        math.nan,
        "limit_val_batches=nan must be a fraction from 0.0 to 1.0, or a number of batches.",
    ),
    ("overfit_batches", -1, "overfit_batches=-1 must be a fraction from 0.0 to 1.0, or a number of batches."),
    ("val_check_interval", 0, "val_check_interval=0 must be a fraction up to 1.0 of an epoch"),
    ("val_check_interval", math.nan, "val_check_interval=nan must be a fraction up to 1.0 of an epoch"),
    ("val_check_interval", "soon", "val_check_interval='soon' is not a duration"),
    ("check_val_every_n_epoch", 0, "check_val_every_n_epoch=0 must be an integer of at least 1."),
    ("check_val_every_n_epoch", None, "check_val_every_n_epoch=None counts batches across epochs"),
    ("max_time", "1:2", "max_time='1:2' is not a duration"),
    ("max_time", "00:00:00:²", "max_time='00:00:00:²' is not a duration"),
    ("max_time", {"fortnights": 1}, "max_time={'fortnights': 1} is not a duration"),
    ("max_time", "99999999999999:00:00:00", "is not a duration"),
    ("max_time", 5, "max_time=5 is not a duration"),
    ("max_time", {"minutes": -5}, "max_time={'minutes': -5} is not a duration"),
    ("max_time", timedelta(-1), "max_time=datetime.timedelta(days=-1) is not a duration"),
    ("val_check_interval", timedelta(-1), "val_check_interval=datetime.timedelta(days=-1) is not a duration"),
    ("reload_dataloaders_every_n_epochs", -1, "reload_dataloaders_every_n_epochs=-1 must be an integer of at least 0."),
    ("log_every_n_steps", 0.5, "log_every_n_steps=0.5 must be an integer of at least 0."),
    ("gradient_clip_val", "much", "gradient_clip_val='much' must be a number of at least 0"),
    ("gradient_clip_val", -1, "gradient_clip_val=-1 must be a number of at least 0"),
    ("gradient_clip_val", math.nan, "gradient_clip_val=nan must be a number of at least 0"),
    ("gradient_clip_algorithm", "scissors", "gradient_clip_algorithm='scissors' is not known"),
    ("deterministic", "yes", "deterministic='yes' is not known; write True or False or \"warn\"."),
    ("fast_dev_run", -1, "fast_dev_run=-1 must be True, False or a number of batches."),
    ("fast_dev_run", 0.5, "fast_dev_run=0.5 must be True, False or a number of batches."),
    ("enable_progress_bar", "no", "enable_progress_bar='no' must be True or False."),
    ("inference_mode", 2, "inference_mode=2 must be True or False."),
    ("default_root_dir", 5, "default_root_dir=5 must be the path of a directory."),
    ("barebones", 1.0, "barebones=1.0 must be True or False."),
    ("devices", None, "devices=None is not understood"),
]


@pytest.mark.parametrize(("name", "value", "said"), REFUSED, ids=str)
def test_what_can_not_work_is_refused(tmp_path, name, value, said):
    with pytest.raises(REFUSALS) as caught:
        quiet_trainer(tmp_path, **{name: value})
    assert said in str(caught.value)


def test_barebones_refuses_what_it_turns_off():
    with pytest.raises(ValueError, match=r"barebones=True.*profiler='simple', detect_anomaly=True; leave it out"):
        pl.Trainer(accelerator="cpu", barebones=True, profiler="simple", detect_anomaly=True)


def test_an_argument_that_does_not_exist():
    with pytest.raises(TypeError, match="max_epoch"):
        pl.Trainer(max_epoch=3)


# -- whatever is written ----------------------------------------------------------------------------------

numbers = st.one_of(st.integers(-3, 300), st.floats(), st.fractions(-1, 2))
anything = st.one_of(
    st.none(), st.booleans(), numbers, st.text(max_size=8), st.binary(max_size=3),
    st.lists(st.one_of(numbers, st.text(max_size=3)), max_size=3),
    st.dictionaries(st.text(max_size=5), numbers, max_size=2),
    st.sampled_from([object(), object, int, Path("x"), timedelta(seconds=3), 1j, ..., len, (), {1}]),
    st.sampled_from([pl.Callback(), pl.Callback, range, memoryview]),
)  # fmt: skip
switches = st.sampled_from([True, False, None])
limits = st.one_of(st.none(), st.integers(0, 3), st.floats(0, 1))
SENSIBLE = {
    "accelerator": st.sampled_from(["cpu", "auto"]),
    "strategy": st.sampled_from(["auto", "single_device"]),
    "devices": st.sampled_from([1, "1", "auto"]),
    "num_nodes": st.just(1),
    "precision": st.sampled_from([None, 32, "32", "32-true"]),
    "logger": st.sampled_from([False, "csv", ["csv", "csv"], "dummy"]),
    "callbacks": st.sampled_from([None, [], pl.Callback(), [pl.Callback()]]),
    "profiler": st.sampled_from([None, "simple"]),
    "plugins": st.sampled_from([None, [], "torch"]),
    "fast_dev_run": st.sampled_from([False, True, 1, 2]),
    "max_epochs": st.sampled_from([0, 1, 2]),
    "min_epochs": st.sampled_from([None, 0, 1]),
    "max_steps": st.sampled_from([-1, 0, 1, 3]),
    "min_steps": st.sampled_from([None, 0, 2]),
    "max_time": st.sampled_from([None, "00:00:00:05", {"seconds": 5}, timedelta(seconds=5)]),
    "limit_train_batches": limits, "limit_val_batches": limits, "limit_test_batches": limits,
    "limit_predict_batches": limits,
    "overfit_batches": st.sampled_from([0, 0.0, 1, 0.5]),
    "val_check_interval": st.sampled_from([None, 1, 2, 0.5, 1.0, "00:00:00:01"]),
    "check_val_every_n_epoch": st.sampled_from([1, 2, None]),
    "num_sanity_val_steps": st.sampled_from([None, 0, 1, -1]),
    "log_every_n_steps": st.sampled_from([None, 0, 1]),
    "accumulate_grad_batches": st.sampled_from([1, 2, 3]),
    "gradient_clip_val": st.sampled_from([None, 0, 0.5, 1]),
    "gradient_clip_algorithm": st.sampled_from([None, "norm", "value"]),
    "deterministic": st.sampled_from([None, False]),
    "benchmark": switches, "inference_mode": switches, "use_distributed_sampler": switches, "detect_anomaly": switches,
    "barebones": st.sampled_from([False, False, False, True]), "sync_batchnorm": switches,
    "enable_autolog_hparams": switches, "enable_checkpointing": st.sampled_from([False, None]),
    "enable_progress_bar": st.just(False), "enable_model_summary": st.just(False),
    "reload_dataloaders_every_n_epochs": st.sampled_from([0, 1]),
    "default_root_dir": st.sampled_from([None, ROOT, str(ROOT)]),
}  # fmt: skip
MISTAKES = {
    "accelerator": "cpuu", "strategy": "dpp", "devices": "two", "num_nodes": 0, "precision": "31", "logger": "cvs",
    "callbacks": "Tiner", "profiler": "simpel", "plugins": "tork", "fast_dev_run": -1, "max_epochs": -2,
    "max_steps": -2, "max_time": "later", "limit_val_batches": 1.5, "overfit_batches": 2.0, "val_check_interval": 0,
    "check_val_every_n_epoch": 0, "log_every_n_steps": -1, "accumulate_grad_batches": 0, "gradient_clip_val": -1,
    "gradient_clip_algorithm": "nrom", "deterministic": "wran", "benchmark": "yes",
}  # fmt: skip


QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip


def build_or_refuse(arguments: dict[str, Any]) -> pl.Trainer | None:
    """The Trainer, or None where it refuses what it was given, in a sentence that names it."""
    try:
        return pl.Trainer(**{**QUIET, **arguments})
    except REFUSALS as error:
        text = str(error)
        assert text[:1].strip(), arguments
        assert text.rstrip()[-1] in ".?!", text
        parts = [part for value in arguments.values() for part in (value if isinstance(value, list) else [value])]
        names = [name.removesuffix("s") for name in arguments]
        assert any(said in text for said in (*names, *map(repr, parts))), text
        return None


def test_every_argument_is_tried():
    assert set(SENSIBLE) == set(inspect.signature(pl.Trainer).parameters)


@pytest.mark.parametrize("name", SENSIBLE)
@given(data=st.data())
@settings(**ALIKE, max_examples=40)
def test_an_argument_of_any_kind_is_taken_or_refused_in_a_sentence(name, data):
    build_or_refuse({name: data.draw(st.one_of(anything, SENSIBLE[name]))})


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_in_a_sentence(name):
    assert build_or_refuse({name: MISTAKES[name]}) is None


@given(
    arguments=st.fixed_dictionaries({}, optional=SENSIBLE),
    other=st.dictionaries(st.sampled_from(list(SENSIBLE)), anything, max_size=3),
)
@settings(**ALIKE, max_examples=200)
def test_any_combination_is_taken_or_refused_in_a_sentence(arguments, other):
    build_or_refuse({**arguments, **other})


@given(arguments=st.fixed_dictionaries({}, optional=SENSIBLE))
@settings(**ALIKE, max_examples=150)
def test_what_is_taken_runs_or_is_refused_before_training(tmp_path_factory, arguments):
    arguments.pop("logger", None)  # writes
    trainer = build_or_refuse({"max_epochs": 1, **arguments, "default_root_dir": tmp_path_factory.getbasetemp()})
    if trainer is None:
        return
    if trainer.max_epochs is None:
        trainer.max_epochs = 1
    said, data = "", Batches(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trainer.fit(EveryStep(), data, Batches(2))
        except REFUSALS as error:
            said = str(error)
    assert trainer.state.status == "finished" or (said[-1] in ".?!" and data.drawn == 0)

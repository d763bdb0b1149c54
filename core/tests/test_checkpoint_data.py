"""A checkpoint is data only: it loads with ``weights_only=True``, whatever hyperparameters and states hold."""

import enum
import os
import pathlib
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import leyden as pl
from leyden_testing.models import LoggingModel, rows
from leyden_testing.training import quiet_trainer, same_weights


class Colour(enum.Enum):
    RED = "red"
    DEEP = (1, 2)
    ODD = len


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Settings:
    rate: float
    inner: object = None


Point = namedtuple("Point", "x y")


class Loud(str):
    def __str__(self):
        return "loud"


class OwnTensor(torch.Tensor):
    pass


class Grumpy(dict):
    def items(self):
        raise RuntimeError("not today")


def itself():
    values = {"name": "itself"}
    values["again"] = values
    return values


NUMPY = [
    np.float64(1.5), np.float16(0.5), np.int8(-3), np.uint64(2**63), np.bool_(True), np.complex64(1 + 2j),
    np.longdouble(1.25), np.str_("text"), np.bytes_(b"bytes"), np.datetime64("2020-01-01"), np.timedelta64(3, "s"),
    np.arange(3), np.arange(4, dtype=">i4"), np.ones((2, 2), dtype="uint16"), np.ones(2, dtype=np.longdouble),
    np.array(["a", "bc"]), np.array([1, "x", None], dtype=object), np.array(7), np.eye(3)[::2, ::-1], np.zeros((0, 3)),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), np.random.default_rng(0), np.dtype("f4"), np.float32,
    np.ma.masked_array([1, 2], mask=[0, 1]), np.array([lambda: 0], dtype=object),
]  # fmt: skip
OBJECTS = [
    lambda x: x, nn.Linear(2, 2), nn.ReLU, len, open, os.environ, object(), itself(), Grumpy(a=1), Loud("quiet"),
    Colour.RED, Colour.DEEP, Colour.ODD, Level.HIGH, Settings(0.1, pathlib.Path("a")), Settings(0.1, print),
    Point(1, 2), Point(1, max), Namespace(lr=0.1, f=abs), pathlib.PurePosixPath("/a/b"), pathlib.Path("c"),
    datetime(2020, 1, 1), date(2020, 1, 1), timedelta(hours=1), Counter("abca"), deque([1, 2], maxlen=2), range(3),
    OrderedDict(a=1, b=[2]), defaultdict(list, a=[1]), bytearray(b"xy"), memoryview(b"xy"), frozenset({1}),
    torch.float32, torch.device("cpu"), torch.Size([1, 2]), torch.ones(2), nn.Parameter(torch.ones(2)),
    torch.ones(2).as_subclass(OwnTensor), OrderedDict(a=torch.ones(1).as_subclass(OwnTensor)), torch.strided,
    torch.Generator(), torch.ones(2).to_sparse(), 2**3000, 2**2039, -(2**2039),
    float("nan"), "\ud800", b"", Ellipsis, NotImplemented, pl.Callback(),
]  # fmt: skip
NUMBERS = st.booleans() | st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
JSON = st.none() | NUMBERS | st.text() | st.binary()
PLAIN = st.recursive(JSON, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner))
KEYS = st.text() | st.integers() | st.sampled_from([Colour.RED, pathlib.Path("k"), frozenset({1}), (1, "a"), None, len])
ANYTHING = st.recursive(
    JSON | st.sampled_from(NUMPY) | st.sampled_from(OBJECTS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.tuples(inner)
        | st.builds(Settings, st.floats(), inner)
        | st.builds(lambda v: Namespace(v=v), inner)
    ),
    max_leaves=8,
)
QUICK = settings(
    deadline=None, max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A Trainer after a fit, for tests that only save and load."""
    trainer = quiet_trainer(tmp_path_factory.mktemp("trained"))
    trainer.fit(LoggingModel(), rows(2))
    return trainer


def save_hparams(trainer, path, values):
    """What a checkpoint of a model with these hyperparameters gives back."""
    trainer.lightning_module.hparams.clear()
    trainer.lightning_module.hparams.update(values)
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True).get("hyper_parameters", {})


@pytest.mark.filterwarnings("ignore:(Left out of|Sealed in) the checkpoint")  # set after the start, when they are named
@QUICK
@given(values=st.dictionaries(st.text(), ANYTHING, max_size=4))
def test_any_hyperparameters_load_with_weights_only(trained, tmp_path, values):
    loaded = save_hparams(trained, tmp_path / "any.ckpt", values)
    assert set(loaded) <= set(values)


@pytest.mark.filterwarnings("ignore:(Left out of|Sealed in) the checkpoint")
@pytest.mark.parametrize("value", [*NUMPY, *OBJECTS], ids=lambda value: type(value).__name__)
def test_each_kind_of_value_loads_or_is_left_out(trained, tmp_path, value):
    values = {"value": value, "list": [value], "nested": {"value": value, "other": 1}}
    loaded = save_hparams(trained, tmp_path / "each.ckpt", values)
    assert loaded["nested"]["other"] == 1


@QUICK
@given(values=st.dictionaries(st.text(), PLAIN, max_size=4))
def test_plain_hyperparameters_come_back_equal(trained, tmp_path, values):
    assert save_hparams(trained, tmp_path / "plain.ckpt", values) == values


KEPT = {
    "float64": (np.float64(1.5), 1.5),
    "longdouble": (np.longdouble(1.25), 1.25),
    "big endian": (np.arange(3, dtype=">i4"), torch.arange(3, dtype=torch.int32)),
    "scalar array": (np.array(7), 7),
    "array of text": (np.array(["a", "b"]), ["a", "b"]),
    "path": (pathlib.PurePosixPath("/a/b"), "/a/b"),
    "enum": (Colour.RED, "red"),
    "int enum": (Level.HIGH, 3),
    "dataclass": (Settings(0.1, pathlib.PurePosixPath("a")), {"rate": 0.1, "inner": "a"}),
    "part of a dataclass": (Settings(0.1, len), {"rate": 0.1}),
    "named tuple": (Point(1, 2), (1, 2)),
    "namespace": (Namespace(lr=0.1), {"lr": 0.1}),
    "date": (date(2020, 1, 2), "2020-01-02"),
    "duration": (timedelta(minutes=1), 60.0),
    "counter": (Counter("aab"), Counter("aab")),
    "deque": (deque([1, 2]), [1, 2]),
    "range": (range(3), [0, 1, 2]),
    "set": ({1, 2}, {1, 2}),
    "text that says it is something else": (Loud("quiet"), "quiet"),
    "dict that contains itself": (itself(), {"name": "itself"}),
    "key": ({pathlib.PurePosixPath("k"): 1, Colour.RED: 2}, {"k": 1, "red": 2}),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_is_kept_of_values_that_are_not_plain(trained, tmp_path, case):
    given_value, expected = KEPT[case]
    loaded = save_hparams(trained, tmp_path / "kept.ckpt", {"value": given_value})["value"]
    assert type(loaded) is type(expected)
    assert torch.equal(loaded, expected) if isinstance(expected, torch.Tensor) else loaded == expected


def laughs(levels=12, width=9):
    """A list in lists, all of them shared, that would be of 9 to the power of 12 texts if it were unpacked."""
    value = ["x"] * width
    for _ in range(levels):
        value = [value] * width
    return value


def test_shared_references_stay_shared(trained, tmp_path):
    layers = [1, {"width": 2}]
    values = {"encoder": layers, "decoder": layers, "bad": {"f": len, "layers": layers}, "laughs": laughs()}
    with pytest.warns(UserWarning, match=r"hyper_parameters\.bad\.f"):
        loaded = save_hparams(trained, tmp_path / "shared.ckpt", values)
    assert loaded["encoder"] is loaded["decoder"] is loaded["bad"]["layers"]
    assert loaded["encoder"] == layers
    assert loaded["laughs"][0] is loaded["laughs"][8]
    assert (tmp_path / "shared.ckpt").stat().st_size < 100_000


def test_what_two_names_share_and_is_no_data_is_left_out_of_both(trained, tmp_path):
    bad = [len]
    with pytest.warns(UserWarning, match=r"hyper_parameters\.a, hyper_parameters\.b"):
        assert save_hparams(trained, tmp_path / "shared.ckpt", {"a": bad, "b": bad, "c": 1}) == {"c": 1}


def test_state_that_is_no_data_and_can_not_be_pickled_is_left_out_by_its_key_and_the_rest_is_saved(tmp_path):
    class Model(LoggingModel):
        def on_save_checkpoint(self, checkpoint):
            checkpoint["mine"] = {"good": 1, "bad": lambda: 0}

    trainer = quiet_trainer(tmp_path, callbacks=[Handle()])
    trainer.fit(Model(), rows(1))
    with pytest.warns(UserWarning, match=r"Left out.*callbacks\.Handle\.handle, mine\.bad"):
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.save_checkpoint(tmp_path / "a.ckpt")  # and is not said again
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert saved["mine"] == {"good": 1}
    assert saved["callbacks"]["Handle"] == {"count": 3}


class Handle(pl.Callback):
    def state_dict(self):
        return {"count": 3, "handle": lambda: 0}


class Exploit:
    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_loading_runs_no_code_of_the_file_unless_asked_to(tmp_path):
    path, exploit = tmp_path / "evil.ckpt", Exploit()
    exploit.path = str(tmp_path / "made")
    torch.save({"state_dict": {}, "hyper_parameters": {"x": exploit}}, path)
    for load in (LoggingModel.load_from_checkpoint, lambda p: quiet_trainer(tmp_path).test(LoggingModel(), rows(1), p)):
        with pytest.raises(RuntimeError, match=r"no data.*weights_only=False only if you trust"):
            load(path)
    assert not (tmp_path / "made").exists()
    model = LoggingModel()
    torch.save({"state_dict": model.state_dict(), "mine": Settings(0.5)}, path)
    assert same_weights(LoggingModel.load_from_checkpoint(path, weights_only=False), model)

"""Any hyperparameters: loaded, they are what they were, or an error names them."""

from __future__ import annotations

import functools
import warnings
from argparse import Namespace
from collections import OrderedDict, defaultdict, deque
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from leyden.utilities import MisconfigurationException
from leyden_testing.models import rows
from leyden_testing.training import quiet_trainer

from .saving import Any1, Config, Inner, Level, Loud, Mode, Options, Rights, Scale, Size, Tongue, Wider

LEAVES = st.sampled_from([
    None, True, 3, -(2**70), 1.5, 2j, "x", "", b"", b"xy", Path("a"), date(2020, 1, 2), timedelta(days=1), range(3),
    2**3000, Mode.FAST, Mode.CALL, Mode.UNIT, Level.HIGH, Tongue.EN, Rights.READ | Rights.WRITE, Size(1), Config(),
    Wider(3), Loud("x"),
    Scale(1.0), len, torch.relu, nn.ReLU, functools.partial(int, base=2), lambda: 0, np.float32(1.5),
    np.arange(3), np.array(["a"]), np.array([1, None], dtype=object), np.datetime64("2020-01-01"), torch.ones(2),
    torch.float16, torch.Size([2]), frozenset({1}), {1, 2}, {Mode.FAST}, frozenset({Mode.FAST}), bytearray(b"x"),
    slice(1, 2), Ellipsis, NotImplemented, OrderedDict(a=1), defaultdict(int, a=1), defaultdict(lambda: 3, a=1),
    deque([Mode.FAST], maxlen=2), Inner(Mode.SLOW), Inner(len), Options(a=Path("x")), nn.Parameter(torch.ones(1)),
])  # fmt: skip
KEYS = st.sampled_from(["a", "b", 1, (1, "x"), None, Mode.FAST, Path("k"), len, b"", date(2020, 1, 1)])
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
        | st.builds(lambda value: [value, {"again": value}], inner)
        | st.builds(lambda value: Config(inner=value, root=value), inner)
        | st.builds(lambda value: Namespace(value=value), inner)
    ),
    max_leaves=6,
)


NAMED = object()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A Trainer after a fit, which saves a model that is changed."""
    trainer = quiet_trainer(tmp_path_factory.mktemp("trained"))
    trainer.fit(Any1(1), rows(1))
    return trainer


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, and of the same types throughout."""
    if type(one) is not type(other):
        return False
    if isinstance(one, functools.partial):
        return (one.func, one.args, one.keywords) == (other.func, other.args, other.keywords)
    if isinstance(one, (torch.Tensor, np.ndarray)):
        return one.dtype == other.dtype and np.array_equal(np.asarray(one.tolist()), np.asarray(other.tolist()))
    if isinstance(one, dict):
        return same(list(one), list(other)) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple, deque)):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "__dataclass_fields__") or isinstance(one, Namespace):
        return same(vars(one), vars(other))
    return bool(one == other)


def has_no_name(value: Any) -> bool:
    """Whether there is something within a value that can't be pickled."""
    if isinstance(value, dict):
        return any(map(has_no_name, [*value, *value.values(), getattr(value, "default_factory", None)]))
    if isinstance(value, (list, tuple, deque)):
        return any(map(has_no_name, value))
    if isinstance(value, (Config, Inner, Namespace)):
        return has_no_name(vars(value))
    return getattr(value, "__name__", "") == "<lambda>"


def loaded(path: Path, **options: Any) -> Any:
    """The hyperparameter after loading; ``NAMED`` where an error has its name."""
    try:
        return Any1.load_from_checkpoint(path, **options).hparams["value"]
    except MisconfigurationException as error:
        if "value=..." not in str(error):
            raise
        return NAMED


@settings(deadline=None, max_examples=80, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES)
def test_it_comes_back_or_is_named(trained, tmp_path, value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained.lightning_module.hparams["value"] = value
        trained.save_checkpoint(tmp_path / "a.ckpt")
        torch.load(tmp_path / "a.ckpt", weights_only=True)
        as_data, as_it_was = loaded(tmp_path / "a.ckpt"), loaded(tmp_path / "a.ckpt", weights_only=False)
        assert as_data is NAMED or same(as_data, value)
        assert (as_it_was is NAMED and has_no_name(value)) or same(as_it_was, value)
        assert Any1.load_from_checkpoint(tmp_path / "a.ckpt", value=5).hparams["value"] == 5

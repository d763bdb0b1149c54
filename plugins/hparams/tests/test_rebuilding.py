"""Hyperparameters come back as they were, from data alone, by the types that the code names."""

from __future__ import annotations

import enum
import io
import typing
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Optional, Union

import numpy as np
import pytest
import torch

import leyden as pl
from leyden.utilities import AttributeDict, MisconfigurationException
from leyden_testing.models import LoggingModel, rows

from .saving import (
    Any1,
    AnyMore,
    Config,
    Entry,
    Inner,
    Level,
    Loud,
    Mode,
    Options,
    Rights,
    Size,
    Tongue,
    Wider,
    annotated,
    save,
)

pytestmark = pytest.mark.filterwarnings("ignore:Any1.__init__ does not name", "ignore:Model.__init__ does not name")


def assert_same(loaded, value):
    assert type(loaded) is type(value)
    if isinstance(value, np.ndarray):
        np.testing.assert_array_equal(loaded, value)
        assert loaded.dtype == value.dtype
    elif isinstance(value, io.BytesIO):
        assert loaded.getvalue() == value.getvalue()
    elif isinstance(value, (dict, list, tuple, deque)):
        assert len(loaded) == len(value)
        both = (loaded.values(), value.values()) if isinstance(value, dict) else (loaded, value)
        for one, other in zip(*both, strict=True):
            assert_same(one, other)
    else:
        assert loaded == value


KNOWN = [
    Path("a/b"), PurePosixPath("/x"), PureWindowsPath("c:\\x"), date(2020, 1, 2), time(3, 4),
    datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc), timedelta(days=-3, microseconds=7),
    Namespace(a=1, b=Path("c")), AttributeDict(a=[1]), OrderedDict(b=1, a=Path("x")), defaultdict(list, a=[1]),
    deque([Path("x")], maxlen=3),
    range(2, 9, 3), frozenset({1, 2}), Counter("aab"), b"", b"xy", bytearray(b""), bytearray(b"x"), io.BytesIO(b"xy"),
    np.float64(1.5), np.int8(3), np.bool_(True), np.longdouble(1.25), np.str_("x"), np.arange(3), np.array(7.0),
    np.arange(3, dtype=">i4"), np.array(["a", "bc"]), np.ones(2, dtype=np.longdouble), np.complex64(1j),
    [Path("a"), (date(2020, 1, 1), {"x": b""})], {"a": {"b": Path("c")}}, (Path("a"), 1),
    torch.Size([1, 2]), float("inf"),
]  # fmt: skip


def test_types_of_the_standard_library_come_back_by_themselves(tmp_path):
    values = {f"{type(value).__name__}{number}": value for number, value in enumerate(KNOWN)}
    loaded = AnyMore.load_from_checkpoint(save(tmp_path, AnyMore(**values)))
    for name, value in values.items():
        assert_same(loaded.hparams[name], value)


NAMED = {
    "enum": (Mode, Mode.FAST),
    "enum_of_a_tuple": (Mode, Mode.PAIR),
    "enum_whose_value_is_no_data": (Mode, Mode.UNIT),
    "optional": (Optional[Mode], Mode.SLOW),  # noqa: UP045
    "none": (Mode | None, None),
    "union": (Union[str, int, Mode], Mode.SLOW),  # noqa: UP007
    "union_with_the_same_value": (str | Mode, "slow"),
    "list": (list[Mode], [Mode.FAST, Mode.SLOW]),
    "typings_list": (typing.List[Mode], [Mode.FAST]),  # noqa: UP006
    "sequence": (typing.Sequence[Mode], [Mode.FAST]),
    "tuple": (tuple[Mode, ...], (Mode.FAST, Mode.SLOW)),
    "tuple_of_several": (tuple[int, Mode, Path], (1, Mode.FAST, Path("x"))),
    "set": (set[Mode], {Mode.FAST}),
    "frozen_set": (frozenset[Mode], frozenset({Mode.FAST})),
    "dict": (dict[str, Mode | int], {"a": Mode.FAST, "b": 3}),
    "keys": (dict[Mode, list[Mode]], {Mode.FAST: [Mode.SLOW]}),
    "mapping": (typing.Mapping[str, Config], {"a": Config()}),
    "named_tuple": (Size, Size(3, Mode.SLOW)),
    "dataclass": (Config, Config(5, Inner(Mode.FAST), [Size(1), Size(2, Mode.SLOW)], Path("r"), {Mode.FAST: 1})),
    "optional_dataclass": (Config | None, Config(7)),
    "subclass": (Config, Wider(5, more=9)),
    "one_of_two_dataclasses": (Inner | Config, Config(2)),
    "text": (Loud, Loud("hey")),
    "dict_of_ones_own": (Options, Options(a=1)),
    "in_text": ("Mode", Mode.SLOW),
    "in_text_nested": ("dict[str, list[Mode | None]] | None", {"a": [None, Mode.FAST]}),
    "new_type": (typing.NewType("Speed", Mode), Mode.FAST),
    "annotated": (typing.Annotated[Mode, "how fast"], Mode.FAST),
    "text_enum": (Tongue, Tongue.EN),
    "number_enum": (Level | str, Level.HIGH),
    "flags": (Rights | None, Rights.READ | Rights.WRITE),
    "typed_dict": (Entry, {"mode": Mode.SLOW, "n": 1}),
    "list_of_typed_dicts": (list[Entry], [{"mode": Mode.SLOW, "n": 1}]),
    "array": (np.ndarray, np.array([[1, 2]])),
}


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """The values of ``NAMED``, saved and loaded in one model."""
    model = annotated({case: hint for case, (hint, _) in NAMED.items()})
    given = model(**{case: value for case, (_, value) in NAMED.items()})
    return model.load_from_checkpoint(save(tmp_path_factory.mktemp("named"), given)).hparams


@pytest.mark.parametrize("case", NAMED)
def test_types_that_the_annotation_names_come_back(named, case):
    assert_same(named[case], NAMED[case][1])


@pytest.mark.parametrize("hint", [None, Any, "Unknown", str])
def test_types_that_the_default_names_come_back(tmp_path, hint):
    defaults = {"a": Mode.FAST, "b": Config(), "c": Size(1), "d": (Mode.FAST, Mode.SLOW), "e": [Mode.FAST]}
    values = {"a": Mode.SLOW, "b": Config(9), "c": Size(2), "d": (Mode.SLOW,), "e": [Mode.PAIR, Mode.SLOW]}
    model = annotated(dict.fromkeys(defaults, hint) if hint is not None else {}, **defaults)
    loaded = model.load_from_checkpoint(save(tmp_path, model(**values))).hparams
    for name, value in values.items():
        assert_same(loaded[name], value)


def test_types_within_the_class_itself(tmp_path):
    class Model(LoggingModel):
        class Kind(enum.Enum):
            ONE = 1

        def __init__(self, kind: Kind):
            super().__init__()
            self.save_hyperparameters()

    assert Model.__init__.__annotations__ == {"kind": "Kind"}
    assert Model.load_from_checkpoint(save(tmp_path, Model(Model.Kind.ONE))).hparams.kind is Model.Kind.ONE


def test_a_value_that_several_arguments_share(tmp_path):
    shared = {"mode": Mode.FAST, "root": Path("x"), "config": Config(3, root=Path("y")), "sizes": (Size(1),)}
    hint = "dict[str, Mode | Path | Config | tuple[Size, ...]]"
    model = annotated({"a": hint, "b": hint, "c": f"list[{hint}]"})
    loaded = model.load_from_checkpoint(save(tmp_path, model(a=shared, b=shared, c=[shared, shared]))).hparams
    for each in (loaded.a, loaded.b, *loaded.c):
        assert_same(each, shared)


def test_arguments_of_base_classes(tmp_path):
    class Base(LoggingModel):
        def __init__(self, mode: Mode, *, size: Size = Size(1)):  # noqa: B008
            super().__init__()
            self.save_hyperparameters()

    class Derived(Base):
        def __init__(self, extra: Path, **others):
            super().__init__(**others)
            self.save_hyperparameters()

    loaded = Derived.load_from_checkpoint(save(tmp_path, Derived(Path("x"), mode=Mode.SLOW, size=Size(2))))
    assert dict(loaded.hparams) == {"extra": Path("x"), "mode": Mode.SLOW, "size": Size(2)}
    assert isinstance(loaded.hparams.size, Size)


@pytest.mark.parametrize(
    "value",
    [
        Mode.FAST,
        Config(),
        Size(1),
        [Mode.FAST],
        {"a": {"b": Mode.FAST}},
        Loud("x"),
        {Mode.FAST: 1},
        {Mode.FAST},
        Mode.UNIT,
    ],
    ids=str,
)
def test_what_the_code_does_not_name_is_an_error_and_never_something_else(tmp_path, value):
    path = save(tmp_path, Any1(value))
    with pytest.raises(MisconfigurationException, match=r"value.*load_from_checkpoint\(path, value=\.\.\.\)"):
        Any1.load_from_checkpoint(path)
    assert Any1.load_from_checkpoint(path, value=3).hparams.value == 3


@pytest.mark.parametrize("hint", [str, list, dict, object, Any, tuple[int, ...], Inner, Path, "no.such.Type"])
def test_a_type_that_does_not_fit_is_an_error_too(tmp_path, hint):
    model = annotated({"value": hint})
    path = save(tmp_path, model(value={"a": Size(1)}))
    with pytest.raises(MisconfigurationException, match=r"value\.a \(a Size\)"):
        model.load_from_checkpoint(path)


def test_a_class_that_got_another_name(tmp_path):
    class Settings(Config):
        pass

    Settings.__qualname__ = "Elsewhere"
    path = save(tmp_path, annotated({"value": Config})(value=Config(4)))
    assert_same(annotated({"value": Settings}).load_from_checkpoint(path).hparams.value, Settings(4))


def test_one_object_of_all_hyperparameters(tmp_path):
    class Model(LoggingModel):
        def __init__(self, config: Config, extra: int = 1):
            super().__init__()
            self.save_hyperparameters(config)
            self.config = config

    given = Config(4, Inner(Mode.FAST), [Size(2)])
    path = save(tmp_path, Model(given))
    assert_same(Model.load_from_checkpoint(path).config, given)
    assert Model.load_from_checkpoint(path, config={"width": 5}).config == Config(5, Inner(Mode.FAST), [Size(2)])
    assert Model.load_from_checkpoint(path, config=Config(6)).config == Config(6)

    class Unsaid(LoggingModel):
        def __init__(self, config):
            super().__init__()
            self.save_hyperparameters(config)
            self.config = config

    assert Unsaid.load_from_checkpoint(save(tmp_path, Unsaid(Namespace(a=1)))).config == Namespace(a=1)
    assert Unsaid.load_from_checkpoint(save(tmp_path, Unsaid({"a": 1}))).config.a == 1


def test_data_modules(tmp_path):
    class Data(pl.LightningDataModule):
        def __init__(self, root: Path, mode: Mode, strict=False):
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self):
            return rows(1)

    path = save(tmp_path, LoggingModel(), Data(Path("x"), Mode.SLOW))
    assert dict(Data.load_from_checkpoint(path).hparams) == {"root": Path("x"), "mode": Mode.SLOW, "strict": False}
    assert Data.load_from_checkpoint(path, strict=True, root=Path("y")).hparams.strict is True


def test_a_file_of_hyperparameters(tmp_path):
    model = annotated({"value": list[Mode] | Config})
    path = save(tmp_path, model(value=[Mode.FAST]))
    (tmp_path / "h.yaml").write_text("value: [FAST, slow]")
    assert model.load_from_checkpoint(path, hparams_file=tmp_path / "h.yaml").hparams.value == [Mode.FAST, Mode.SLOW]
    (tmp_path / "h.yaml").write_text("value: {width: 8, inner: {mode: fast, since: 2021-02-03}}")
    loaded = model.load_from_checkpoint(path, hparams_file=tmp_path / "h.yaml").hparams.value
    assert loaded == Config(8, Inner(Mode.FAST, date(2021, 2, 3)))


def test_the_code_is_told_at_the_start_of_a_fit_to_name_types(tmp_path):
    with pytest.warns(UserWarning, match=r"Any1\.__init__ does not name.*value \(a Mode\).*Annotate"):
        save(tmp_path, Any1(Mode.FAST))

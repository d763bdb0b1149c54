"""The types outside of plain data that this package knows by itself, and makes again without any help.

A checkpoint names one by its key in ``KINDS``. So what is made is decided by this table, and never by a name in a file.
"""

from __future__ import annotations

import io
import re
import sys
from argparse import Namespace
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy
from torch import Tensor

from leyden.utilities import AttributeDict

_FACTORIES: dict[str, Any] = {made.__name__: made for made in (list, dict, set, tuple, int, float, str, bool)}


def _nothing(value: Any) -> Any:
    return None


@dataclass(frozen=True)
class Kind:
    """One type.

    Attributes:
        make: Makes a value from its plain data and its detail; raises an error for data of another form.
        detail: What is kept of a value beside its plain data.
    """

    make: Callable[[Any, Any], Any]
    detail: Callable[[Any], Any] = _nothing


def _of(expected: type | tuple[type, ...], make: Callable[[Any], Any]) -> Kind:
    """A kind that is made from plain data of one type."""

    def checked(data: Any, detail: Any) -> Any:
        if not isinstance(data, expected):
            raise TypeError(f"{type(data).__name__} is not the expected data")
        return make(data)

    return Kind(checked)


def _metadata(value: Any) -> Any:
    """The versions of the modules in a ``state_dict``."""
    return dict(getattr(value, "_metadata", None) or {}) or None


def _ordered(data: Any, metadata: Any) -> Any:
    if type(data) is not dict:  # a state that is read later
        raise TypeError("no dict")
    made: Any = OrderedDict(data)
    if metadata:
        made._metadata = OrderedDict(metadata)
    return made


def _default_dict(data: Any, factory: Any) -> Any:
    return defaultdict(_FACTORIES[factory] if factory is not None else None, data)


def _factory(value: Any) -> Any:
    return value.default_factory and value.default_factory.__name__


def _array(data: Any, name: str) -> Any:
    return numpy.asarray(data.cpu() if isinstance(data, Tensor) else data, dtype=_dtype(name))


def _number(data: Any, name: str) -> Any:
    return _dtype(name).type(data)


def _dtype(name: str) -> Any:
    """The type of numbers or text that has this name; others could be of objects."""
    if not re.fullmatch(r"[<>=|]?[biufcUS]\d+", name):
        raise ValueError(f"{name} is no type of numbers")
    return numpy.dtype(name)


def _config(data: Any, flags: Any) -> Any:
    """An OmegaConf config of values that are taken as they are: an interpolation could call a function."""
    from omegaconf import OmegaConf

    made = OmegaConf.create(_escaped(data))
    for name, flag in zip(("struct", "readonly"), flags, strict=True):
        OmegaConf.set_struct(made, flag) if name == "struct" else OmegaConf.set_readonly(made, flag)
    return made


def _escaped(data: Any) -> Any:
    if isinstance(data, str):
        return re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", data)
    if isinstance(data, dict):
        return {key: _escaped(value) for key, value in data.items()}
    return [_escaped(value) for value in data] if isinstance(data, (list, tuple)) else data


def _flags(value: Any) -> Any:
    from omegaconf import OmegaConf

    return [OmegaConf.is_struct(value), OmegaConf.is_readonly(value)]


def config_data(value: Any) -> Any:
    """The values of an OmegaConf config, interpolations resolved where that is possible."""
    from omegaconf import OmegaConf

    try:
        return OmegaConf.to_container(value, resolve=True)
    except Exception:  # any error of a resolver
        return OmegaConf.to_container(value, resolve=False)


KINDS: dict[str, Kind] = {
    "bytes": _of((bytes, bytearray), bytes),
    "bytearray": _of((bytes, bytearray), bytearray),
    "BytesIO": _of((bytes, bytearray), io.BytesIO),
    "Path": _of(str, Path),
    "PurePosixPath": _of(str, PurePosixPath),
    "PureWindowsPath": _of(str, PureWindowsPath),
    "date": _of(str, date.fromisoformat),
    "datetime": _of(str, datetime.fromisoformat),
    "time": _of(str, time.fromisoformat),
    "timedelta": Kind(lambda data, parts: timedelta(*parts), lambda v: (v.days, v.seconds, v.microseconds)),
    "Namespace": _of(dict, lambda data: Namespace(**data)),
    "AttributeDict": _of(dict, AttributeDict),
    "OrderedDict": Kind(_ordered, _metadata),
    "defaultdict": Kind(_default_dict, _factory),
    "deque": Kind(deque, lambda value: value.maxlen),
    "range": Kind(lambda data, bounds: range(*bounds), lambda value: (value.start, value.stop, value.step)),
    "frozenset": _of((set, list), frozenset),
    "array": Kind(_array, lambda value: value.dtype.str),
    "number": Kind(_number, lambda value: value.dtype.str),
    "config": Kind(_config, _flags),
}
_BY_TYPE: dict[type, str] = {
    bytes: "bytes", bytearray: "bytearray", io.BytesIO: "BytesIO", type(Path()): "Path", PurePosixPath: "PurePosixPath",
    PureWindowsPath: "PureWindowsPath", date: "date", datetime: "datetime", time: "time", timedelta: "timedelta",
    Namespace: "Namespace", AttributeDict: "AttributeDict", OrderedDict: "OrderedDict", defaultdict: "defaultdict",
    deque: "deque", range: "range", frozenset: "frozenset",
}  # fmt: skip


def kind_of(value: Any) -> str | None:
    """The key of the kind that a value is of; None for other types, subclasses included."""
    if is_config(value):
        return "config"
    if type(value) is numpy.ndarray or isinstance(value, numpy.generic):
        is_known = re.fullmatch(r"[<>=|]?[biufcUS]\d+", value.dtype.str)
        return ("array" if type(value) is numpy.ndarray else "number") if is_known else None
    if type(value) is defaultdict and value.default_factory not in (None, *_FACTORIES.values()):
        return None
    return _BY_TYPE.get(type(value))


def is_config(value: Any) -> bool:
    """Whether a value is a config of OmegaConf, which nothing imports but the user."""
    omegaconf: Any = sys.modules.get("omegaconf")
    return omegaconf is not None and type(value) in (omegaconf.DictConfig, omegaconf.ListConfig)

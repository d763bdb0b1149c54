"""Values as plain data, which ``torch.load(weights_only=True)`` takes back."""

from argparse import Namespace
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from enum import Enum
from operator import attrgetter, methodcaller
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.serialization import get_safe_globals

_PLAIN = {type(None), bool, float, complex, str, torch.dtype, torch.device, torch.Size, Tensor, Parameter}
# what makes the plain value of one of these or of a subclass, whatever the subclass says of itself;
# empty bytes are pickled as a call of ``bytes``, which is refused when loading, empty byte arrays are not
_PLAIN_BASES: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda value: bytes(value) or bytearray(),
}
# what makes the same of one of these in simpler types
_SIMPLER: dict[type | tuple[type, ...], Callable[[Any], Any]] = {
    Enum: attrgetter("value"),
    PurePath: str,
    (date, time): methodcaller("isoformat"),
    timedelta: timedelta.total_seconds,
    bytearray: bytes,
    Namespace: vars,
}
_MOST_BITS = 8 * 255 - 1  # of an integer that weights_only can read, beside its sign


class NotPlainError(TypeError):
    """A value is no data: loading it back would run code or import a name from the file."""


def to_plain(value: Any, where: str = "", dropped: list[str] | None = None, within: tuple[int, ...] = ()) -> Any:
    """The value as data that ``torch.load(weights_only=True)`` takes back.

    Numpy values become numbers and tensors, paths strings, enums their values, dates text, named tuples tuples,
    dataclasses and Namespaces dicts.

    Args:
        value: Anything.
        where: The key path of ``value``, for messages.
        dropped: Collects the paths of dict entries that are no data and were left out.
        within: The ``id`` of every collection that ``value`` is in.

    Raises:
        NotPlainError: The value is no data and stands in no dict from which it could be left out.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, tuple(_PLAIN_BASES)):
        return _plain_subclass(value, where)
    if isinstance(value, Tensor):
        return value if type(value) in get_safe_globals() else value.as_subclass(Tensor)
    if id(value) in within:
        raise NotPlainError(f"{where} is a collection that contains itself.")
    within = (*within, id(value))
    if isinstance(value, Mapping):
        return _plain_mapping(value, where, dropped, within)
    if isinstance(value, (list, tuple, deque, range)):
        items = [to_plain(v, f"{where}[{i}]", dropped, within) for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, (set, frozenset)):
        return {to_plain(v, where, dropped, within) for v in value}
    return to_plain(_simpler(value, where), where, dropped, within)


def _plain_subclass(value: Any, where: str) -> Any:
    """An integer, or what derives from a number or text, such as numpy.float64."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise NotPlainError(f"{where} is an integer of {value.bit_length()} bits, and {_MOST_BITS} can be read back.")
    return next(plain(value) for base, plain in _PLAIN_BASES.items() if isinstance(value, base))


def _plain_mapping(value: Mapping[Any, Any], where: str, dropped: list[str] | None, within: tuple[int, ...]) -> Any:
    if isinstance(value, OrderedDict) and all(type(v) in (Tensor, Parameter) for v in value.values()):
        return value  # a module's state keeps its metadata
    plain = {}
    for key, member in value.items():
        path = f"{where}.{key}" if where else str(key)
        try:
            plain[to_plain(key, path)] = to_plain(member, path, dropped, within)
        except Exception:  # besides NotPlainError whatever the methods of a user's own object raise
            if dropped is None:
                raise
            dropped.append(path)
    return Counter(plain) if isinstance(value, Counter) else plain


def _simpler(value: Any, where: str) -> Any:
    """The same in simpler types, which may hold others that are to be made simpler in turn."""
    for kind, simpler in _SIMPLER.items():
        if isinstance(value, kind):
            return simpler(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return _plain_numpy(value) if value.dtype.kind in "biufc" else value.tolist()
    raise NotPlainError(
        f"{where or 'the value'} is a {type(value).__module__}.{type(value).__qualname__}, which is no data."
    )


def _plain_numpy(value: Any) -> Any:
    """Numbers of numpy's: an array as a tensor, a scalar as Python's own; floats beyond 64 bits lose their last."""
    kind, dtype = value.dtype.kind, value.dtype.newbyteorder("=")
    too_long = dtype.itemsize > (16 if kind == "c" else 8)
    native = value.astype({"f": "float64", "c": "complex128"}[kind] if too_long else dtype)
    return torch.from_numpy(native) if native.ndim else native.item()

"""Converts values to plain data, which ``torch.load(weights_only=True)`` can load."""

from argparse import Namespace
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from enum import Enum
from io import BytesIO
from operator import attrgetter, methodcaller
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.serialization import get_safe_globals

_PLAIN = {type(None), bool, float, complex, str, torch.dtype, torch.device, torch.Size, Tensor, Parameter}
# Functions that make the plain value from an instance of the class or a subclass, even if the subclass overrides the
# conversion. Empty bytes become a bytearray: they are pickled as a call of ``bytes``, which loading refuses.
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
    BytesIO: BytesIO.getvalue,
    Namespace: vars,
}
_MAX_BITS = 8 * 255 - 1  # the longest integer, without its sign, that torch.load(weights_only=True) can read


class NotPlainError(TypeError):
    """Raised for a value that is not plain data: loading it would run code or import a name from the file."""


def to_plain(value: Any, where: str = "", dropped: list[str] | None = None, known: dict[int, Any] | None = None) -> Any:
    """Convert a value to plain data, which ``torch.load(weights_only=True)`` can load.

    NumPy values become numbers and tensors, paths become strings, enums their values, dates text, named tuples
    tuples, and dataclasses and Namespaces dicts. A value that is there more than once is converted once, and shared.

    Args:
        value: Any value.
        where: The key path of ``value``, for messages.
        dropped: A list to which the paths of dict entries are added that are not plain data and were left out. With
            None such entries raise an error.
        known: For the ``id`` of every value seen, the value, and what it was converted to unless it contains this one.

    Raises:
        NotPlainError: The value is not plain data, and is not an entry of a dict that could be left out.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, tuple(_PLAIN_BASES)):
        return _plain_subclass(value, where)
    if isinstance(value, Tensor):
        return value if type(value) in get_safe_globals() else value.as_subclass(Tensor)
    known = {} if known is None else known
    seen = known.setdefault(id(value), [])
    if not seen:
        seen.append(value)
        seen.append(_convert(value, where, dropped, known))
    elif len(seen) == 1:
        raise NotPlainError(f"{where} is a collection that contains itself.")
    return seen[1]


def _convert(value: Any, where: str, dropped: list[str] | None, known: dict[int, Any]) -> Any:
    if isinstance(value, Mapping):
        return _plain_mapping(value, where, dropped, known)
    if isinstance(value, (list, tuple, deque, range)):
        items = [to_plain(v, f"{where}[{i}]", dropped, known) for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, (set, frozenset)):
        return {to_plain(v, where, dropped, known) for v in value}
    return to_plain(_simpler(value, where), where, dropped, known)


def _plain_subclass(value: Any, where: str) -> Any:
    """Convert an integer, or an instance of a subclass of a number or text, such as numpy.float64."""
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise NotPlainError(
            f"{where} is an integer of {value.bit_length()} bits, but at most {_MAX_BITS} bits can be loaded."
        )
    return next(plain(value) for base, plain in _PLAIN_BASES.items() if isinstance(value, base))


def _plain_mapping(value: Mapping[Any, Any], where: str, dropped: list[str] | None, known: dict[int, Any]) -> Any:
    if isinstance(value, OrderedDict) and all(type(v) in (Tensor, Parameter) for v in value.values()):
        return value  # the state of a module, whose metadata must be kept
    plain = {}
    for key, member in value.items():
        path = f"{where}.{key}" if where else str(key)
        try:
            plain[to_plain(key, path)] = to_plain(member, path, dropped, known)
        except Exception:  # NotPlainError, or any error from the methods of a user's object
            if dropped is None:
                raise
            dropped.append(path)
    return Counter(plain) if isinstance(value, Counter) else plain


def _simpler(value: Any, where: str) -> Any:
    """Convert a value by one step to simpler types; the result may contain values to convert further."""
    for kind, simpler in _SIMPLER.items():
        if isinstance(value, kind):
            return simpler(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return _plain_numpy(value) if value.dtype.kind in "biufc" else value.tolist()
    raise NotPlainError(
        f"{where or 'the value'} is a {type(value).__module__}.{type(value).__qualname__}, which is not plain data."
    )


def _plain_numpy(value: Any) -> Any:
    """Convert a NumPy array to a tensor, or a scalar to a Python number; longer floats are rounded to 64 bits."""
    kind, dtype = value.dtype.kind, value.dtype.newbyteorder("=")
    too_long = dtype.itemsize > (16 if kind == "c" else 8)
    native = value.astype({"f": "float64", "c": "complex128"}[kind] if too_long else dtype)
    return torch.from_numpy(native) if native.ndim else native.item()

"""Finding the part of an object that can't be pickled."""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from torch.nn import Module

# Where a run, or a Fabric, keeps what its user gave it, and what the user calls it.
_GIVEN = {
    "model": ("module",),
    "datamodule": ("datamodule",),
    "callbacks": ("trainer", "callbacks"),
    "logger": ("trainer", "loggers"),
    "plugins": ("trainer", "plugin_manager"),
    "trainer": ("trainer",),
    "strategy": ("strategy",),
}


def unpicklable(value: Any) -> tuple[str, str] | None:
    """Find the deepest part of ``(function, args)`` that can't be pickled.

    Returns:
        The path of that part and the reason; None if everything can be pickled.
    """
    function, args = value
    owner = getattr(function, "__self__", function)
    for name, part in (*_given(owner), ("arguments", args), (type(owner).__name__.lower(), owner)):
        found = _search(part, name, owner, set())
        if found is not None:
            return found
    return None


def _given(owner: Any) -> Iterator[tuple[str, Any]]:
    loop = getattr(owner, "loop", None)
    for source in (getattr(loop, "source", None), getattr(getattr(loop, "validation", None), "source", None)):
        if source is not None:
            yield f"{source.hook}s", source.given
    for name, path in _GIVEN.items():
        part = owner
        for attribute in path:
            part = getattr(part, attribute, None)
        yield name, part


def _search(value: Any, path: str, owner: Any, seen: set[int]) -> tuple[str, str] | None:
    reason = _reason(value, owner)
    if reason is None or id(value) in seen:
        return None
    seen.add(id(value))
    for step, member in _members(value):
        found = _search(member, path + step, owner, seen)
        if found is not None:
            return found
    return path, reason


def _reason(value: Any, owner: Any) -> str | None:
    pickler = pickle.Pickler(io.BytesIO())
    if value is not owner:  # a part that refers to the Trainer is not at fault for what the Trainer holds
        pickler.persistent_id = lambda each: "owner" if each is owner else None  # type: ignore[method-assign]
    try:
        pickler.dump(value)
    except Exception as error:
        return f"{type(error).__name__}: {error}".rstrip(".")
    return None


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """The objects that a pickle of ``value`` contains, each with the expression that leads to it, such as ".layer"."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", member) for key, member in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{i}]", member) for i, member in enumerate(value))
    if isinstance(value, Module):
        yield from ((f".{name}", child) for name, child in value.named_children())
    reduce: Any = copyreg.dispatch_table.get(type(value), type(value).__reduce__)
    if reduce is not object.__reduce__:  # it is built again from these arguments, and its attributes are not pickled
        with suppress(Exception):
            yield from (("", member) for member in reduce(value)[1])
        return
    state = getattr(value, "__dict__", None)
    if isinstance(value, type) or not isinstance(state, dict):
        return
    get_state = getattr(type(value), "__getstate__", None)
    if get_state is not None and get_state is not getattr(object, "__getstate__", None):
        own = value.__getstate__()
        state = own if isinstance(own, dict) else state
    yield from ((f".{name}", member) for name, member in state.items())

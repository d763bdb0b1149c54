"""Tells whether an object overrides a method of its base class."""

from __future__ import annotations

from typing import Any


def is_overridden(name: str, target: Any, base: type | None) -> bool:
    """Whether ``target`` has its own method ``name``, from its class or assigned to the instance.

    Args:
        name: The method's name.
        target: The object.
        base: The class whose method may be overridden; None counts any method of ``target``.
    """
    if name in getattr(target, "__dict__", {}):
        return callable(target.__dict__[name])
    own = getattr(type(target), name, None)
    return callable(own) and own is not getattr(base, name, None)

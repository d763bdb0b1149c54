"""Whether an object has a method of its own where its base class has one too."""

from __future__ import annotations

from typing import Any


def is_overridden(name: str, target: Any, base: type | None) -> bool:
    """Whether ``target`` has a method ``name`` of its own, in its class or put on the instance."""
    if name in getattr(target, "__dict__", {}):
        return callable(target.__dict__[name])
    own = getattr(type(target), name, None)
    return callable(own) and own is not getattr(base, name, None)

"""Windows onto the registry: ``from leyden.callbacks import EarlyStopping`` finds what installed plugins bring."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dis import opmap
from types import FrameType
from typing import Any

from leyden.registry import Registry


def window(
    module: str, kinds: tuple[str, ...], own: dict[str, Any]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a module that shows the components of some kinds by name.

    Args:
        module: The module's name.
        kinds: The kinds of component to look in, in order.
        own: The module's own names, for ``dir()``.
    """

    def find(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        registry = Registry()
        for kind in kinds:
            if registry.named(kind, name):
                return registry.get(kind, name).load()
        unknown = registry.unknown(kinds, name)
        if _is_import(sys._getframe(1)):
            raise unknown
        raise AttributeError(str(unknown)) from unknown.__cause__

    def names() -> list[str]:
        registry = Registry()
        parts = [part for kind in kinds for part in registry.components(kind)]
        return sorted({*own, *(name for part in parts for name in part.names if name.isidentifier())})

    return find, names


def _is_import(frame: FrameType) -> bool:
    """Whether ``from … import name`` asks.

    Of an AttributeError it would keep nothing of what it says; ``hasattr``, pickle and others that look through
    modules know no other.
    """
    return frame.f_code.co_code[frame.f_lasti] == opmap["IMPORT_FROM"]

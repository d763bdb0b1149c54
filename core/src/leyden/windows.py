"""Windows onto the registry: ``from leyden.callbacks import EarlyStopping`` finds what installed plugins bring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leyden.registry import Registry


def window(module: str, kinds: tuple[str, ...], own: dict[str, Any]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a module that shows the components of some kinds by name.

    Args:
        module: The module's name.
        kinds: The kinds of component to look in, in order; the first one speaks in the error.
        own: The module's own names, for ``dir()``.
    """

    def find(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        registry = Registry()
        for kind in kinds:
            if registry.named(kind, name):
                return registry.get(kind, name).load()
        error = registry.unknown(kinds[0], name)
        raise AttributeError(str(error)) from error

    def names() -> list[str]:
        registry = Registry()
        parts = [part for kind in kinds for part in registry.components(kind)]
        return sorted({*own, *(name for part in parts for name in part.names if name.isidentifier())})

    return find, names

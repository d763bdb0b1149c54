"""Windows onto the registry: ``from leyden.callbacks import EarlyStopping`` finds what installed plugins bring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leyden.registry import Registry, published_by


def window(
    module: str, kinds: tuple[str, ...], own: dict[str, Any]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a module that shows the components of some kinds by name.

    Args:
        module: The module's name.
        kinds: The kinds of component to look in, in order; the one that is known to have the name, or else
            the first, speaks in the error.
        own: The module's own names, for ``dir()``.
    """

    def find(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        registry = Registry()
        for kind in kinds:
            if registry.named(kind, name):
                return registry.get(kind, name).load()
        # An ImportError: of an AttributeError, ``from … import name`` would keep nothing of what it says.
        raise registry.unknown(next((kind for kind in kinds if published_by(kind, name)[0]), kinds[0]), name)

    def names() -> list[str]:
        registry = Registry()
        parts = [part for kind in kinds for part in registry.components(kind)]
        return sorted({*own, *(name for part in parts for name in part.names if name.isidentifier())})

    return find, names

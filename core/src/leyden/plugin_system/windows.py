"""Windows onto the components: ``from leyden.callbacks import EarlyStopping`` finds what installed plugins bring.

``paths.json`` says what is behind the paths of Lightning's modules, such as ``leyden.callbacks.early_stopping``: a
module of the core, or a component, for the module in which an installed plugin keeps it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dis import opmap
from functools import cache, partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.resources import files
from importlib.util import spec_from_loader
from types import FrameType, ModuleType
from typing import Any

from leyden.plugin_system.catalogue import UnknownComponentError
from leyden.plugin_system.discovery import discover

_windows: dict[str, tuple[Sequence[str], Sequence[str]]] = {}


def window(
    module: str, kinds: Sequence[str], own: Sequence[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a module that shows the components of some kinds by name.

    Args:
        module: The module's name.
        kinds: The kinds of component to look in, in order.
        own: The module's own names, for ``dir()``.
    """

    def find(name: str) -> Any:
        return look(module, kinds, name, sys._getframe(1))

    _windows[module] = kinds, own
    return find, partial(names, kinds, own)


def names(kinds: Sequence[str], own: Sequence[str]) -> list[str]:
    """What ``dir()`` lists of a window: its own names, and those of the components of its kinds, sorted."""
    parts = [part for kind in kinds for part in discover().components(kind)]
    return sorted({*own, *(name for part in parts for name in part.names if name.isidentifier())})


def look(module: str, kinds: Sequence[str], name: str, asker: FrameType) -> Any:
    """What a window shows under a name.

    Args:
        module: The window's module.
        kinds: The kinds of component to look in, in order.
        name: The name.
        asker: The frame that asks for it.

    Raises:
        UnknownComponentError: There is none, and ``from … import name`` asks.
        AttributeError: There is none, and something else asks.
    """
    if name == "__path__":  # Python looks for modules below this one only where there is a path
        return []
    if name.startswith("_"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    try:
        if f"{module}.{name}" in _paths():
            return import_module(f"{module}.{name}")
        return discover().component(kinds, name).load()
    except UnknownComponentError as unknown:
        if _is_import(asker):
            raise
        raise AttributeError(str(unknown)) from unknown.__cause__


def _is_import(frame: FrameType) -> bool:
    """Whether ``from … import name`` asks.

    Of an AttributeError it would keep nothing of what it says; ``hasattr``, pickle and others that look through
    modules know no other.
    """
    return frame.f_code.co_code[frame.f_lasti] == opmap["IMPORT_FROM"]


class _Paths(MetaPathFinder, Loader):
    """Finds the modules of ``paths.json``: each is the one that it stands for, under a second name.

    A window's is a window like it, since what is imported from below a module becomes its attribute.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        known = fullname.startswith("leyden.") and fullname in _paths()
        return spec_from_loader(fullname, self) if known else None

    def exec_module(self, module: ModuleType) -> None:
        name, place = module.__name__, _paths()[module.__name__]
        kind, _, component = place.partition(":")
        real = import_module(discover().component(kind, component).target.partition(":")[0] if component else place)
        if place in _windows:
            kinds, own = _windows[place]
            find, listed = window(name, kinds, own)
            vars(module).update({n: getattr(real, n) for n in own}, __getattr__=find, __dir__=listed)
            return
        for path, other in _paths().items():
            # Nothing can be imported from below a module that is no package.
            if path == name or (path.startswith(f"{name}.") and other == place):
                sys.modules[path] = real


@cache
def _paths() -> dict[str, str]:
    """Lightning's path of a module, in ``leyden``, to a module of the core, or to "kind:name" of a component."""
    text = files("leyden.plugin_system").joinpath("paths.json").read_text(encoding="utf-8")
    return {f"leyden.{path}": place for path, place in json.loads(text).items()}


sys.meta_path.append(_Paths())

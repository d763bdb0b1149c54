"""Windows onto the components: ``from leyden.callbacks import EarlyStopping`` finds what installed plugins bring.

Plugins bring modules too: what is below ``leyden`` and has no file is asked of the components "module_paths".
"""

import sys
from collections.abc import Callable
from dis import opmap
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType
from typing import Any

from leyden import utilities
from leyden.plugin_system.discovery import discover
from leyden.plugin_system.manager import catalogue
from leyden.utilities.exceptions import UnknownComponentError


def window(module: str, *kinds: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a module that shows the components of some kinds by name.

    ``__getattr__`` gives the module below it that a plugin brings under the name, or the component. Where there is
    none, it raises UnknownComponentError to ``from … import name``, and AttributeError to whatever else asks.
    ``__dir__`` lists the module's ``__all__`` and the names of the components, sorted.

    Args:
        module: The module's name.
        kinds: The kinds of component to look in, in order.
    """

    def find(name: str) -> Any:
        if name == "__path__":  # Python looks for modules below this one only where there is a path
            return []
        if name.startswith("_"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        try:
            if _brought(f"{module}.{name}") is not None:
                return import_module(f"{module}.{name}")
            return discover().component(kinds, name).load()
        except UnknownComponentError as unknown:
            if _is_import(sys._getframe(1)):
                raise
            raise AttributeError(str(unknown)) from unknown.__cause__

    def listed() -> list[str]:
        parts = [part for kind in kinds for part in discover().components(kind)]
        own = getattr(sys.modules[module], "__all__", ())
        return sorted({*own, *(name for part in parts for name in part.names if name.isidentifier())})

    return find, listed


def submodule(module: str, name: str) -> ModuleType:
    """The module ``name`` below another, whose ``__getattr__`` asks for it.

    Raises:
        AttributeError: There is none.
    """
    try:
        return import_module(f"{module}.{name}")
    except ImportError as error:
        raise AttributeError(f"module {module!r} has no attribute {name!r}: {error}") from error


def _is_import(frame: FrameType) -> bool:
    """Whether ``from … import name`` asks.

    Of an AttributeError it would keep nothing of what it says; ``hasattr``, pickle and others that look through
    modules know no other.
    """
    return frame.f_code.co_code[frame.f_lasti] == opmap["IMPORT_FROM"]


def _brought(module: str) -> Callable[[], ModuleType] | None:
    """What loads a module below ``leyden`` that a plugin brings; None where none does."""
    finders = [part.load() for part in discover().components("module_paths")]
    return next((load for find in finders if (load := find(module.partition(".")[2])) is not None), None)


class _Finder(Loader):
    """Finds the modules that plugins bring.

    Python asks it last, so that no plugin is discovered for the import of a module that exists.
    """

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        if not name.startswith("leyden."):
            return None
        if (load := _brought(name)) is not None:
            return ModuleSpec(name, self, loader_state=load)
        if missing := catalogue()["published"]["module_paths"].keys() - discover().names("module_paths"):
            whose = min(missing)
            advice = discover().advice(whose, "module_paths")
            raise ModuleNotFoundError(f"No module named {name!r}; if the path is {whose}'s: {advice}.", name=name)
        return None

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        sys.modules[module.__name__] = module.__spec__.loader_state()


sys.meta_path.append(_Finder())
utilities.__getattr__, utilities.__dir__ = window("leyden.utilities", "utility")  # a window below this layer

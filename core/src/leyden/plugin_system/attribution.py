"""Whose error it is: a note on an exception that a plugin's hook raised, found from the traceback when it has happened.

Nothing is wrapped around the hooks for it: a call costs what it cost, and the exception keeps its type and traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from traceback import walk_tb
from typing import Any

import pluggy

from leyden.plugin_system.manager import PluginManager


def note_plugin(error: BaseException, manager: PluginManager, participants: Iterable[Any] = ()) -> None:
    """Add a note that names plugin, distribution and version, where a hook of a plugin raised ``error``.

    What a method of the module, the data module, a callback or the strategy raised is not a plugin's, even where
    a plugin's hook called it.

    Args:
        error: What was raised; before Python 3.11, whose tracebacks do not print notes, it only has them.
        manager: The plugins, and of a run what its participants registered too.
        participants: The run's module, data module, callbacks and strategy.
    """
    implementations = [impl for name in vars(manager.hook) for impl in getattr(manager.hook, name).get_hookimpls()]
    hooks = {_code(impl.function): impl for impl in implementations}
    own = {id(participant) for participant in participants if participant is not None}
    for frame in reversed([frame for frame, _ in walk_tb(error.__traceback__)]):
        impl = hooks.get(frame.f_code)
        if impl is not None and _target(impl) is None:
            record = next((r for r in manager.infos if r.plugin is impl.plugin), None)
            if record is not None:
                _add_note(error, f"Raised within {frame.f_code.co_name!r} of the {record}.")
            return
        if impl is not None or id(frame.f_locals.get("self")) in own:
            return


def _target(impl: pluggy.HookImpl) -> Any:
    """The participant whose method it is; None for a plugin's function."""
    return getattr(impl.function, "target", None)


def _code(function: Callable[..., Any]) -> Any:
    method = getattr(function, "method", function)
    return getattr(getattr(method, "__func__", method), "__code__", None)


def _add_note(error: BaseException, note: str) -> None:
    notes: list[str] = getattr(error, "__notes__", [])
    if note not in notes:
        vars(error)["__notes__"] = [*notes, note]  # add_note came with Python 3.11

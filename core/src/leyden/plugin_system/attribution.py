"""Whose error it is: a note on an exception that a plugin's hook raised, found from the traceback when it has happened.

Nothing is wrapped around the hooks for it: a call costs what it cost, and the exception keeps its type and traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from traceback import walk_tb
from typing import Any

from leyden.plugin_system.table import Implementation


def note_plugin(
    error: BaseException, implementations: Mapping[str, Sequence[Implementation]], participants: Iterable[Any] = ()
) -> None:
    """Add a note that names plugin, distribution and version, where a hook of a plugin raised ``error``.

    What a method of the module, the data module, a callback or the strategy raised is not a plugin's, even where
    a plugin's hook called it.

    Args:
        error: What was raised; before Python 3.11, whose tracebacks do not print notes, it only has them.
        implementations: Who implements each hook.
        participants: The run's module, data module, callbacks and strategy.
    """
    by_code = {_code(one.function): one for ones in implementations.values() for one in ones}
    own = [id(participant) for participant in participants if participant is not None]
    for frame in reversed([frame for frame, _ in walk_tb(error.__traceback__)]):
        one = by_code.get(frame.f_code)
        if one is not None and one.info is not None:
            return _add_note(error, f"Raised within {frame.f_code.co_name!r} of the {one.info}.")
        if one is not None or id(frame.f_locals.get("self")) in own:
            return


def _code(function: Callable[..., Any]) -> Any:
    return getattr(getattr(function, "__func__", function), "__code__", None)


def _add_note(error: BaseException, note: str) -> None:
    notes: list[str] = getattr(error, "__notes__", [])
    if note not in notes:
        vars(error)["__notes__"] = [*notes, note]  # add_note came with Python 3.11

"""Whether a plugin and this version of the hooks go together, and what a plugin's author is told of deprecated ones.

A plugin states what it was written for in its requirements, which can be read without importing it: the versions of
the core (``leyden-core>=0.1``) and, as extras of it, those of the hook specifications (``leyden-core[hooks-1]``).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from leyden.plugin_system import hooks

CORE_DISTRIBUTION = "leyden-core"


def refusal(requirements: Iterable[str], core: str) -> str:
    """Why a plugin can't work with this core, in words, or "" where it can.

    Args:
        requirements: The requirements of the plugin's distribution, as they stand in its metadata.
        core: The version of the core.

    Raises:
        packaging.requirements.InvalidRequirement: A requirement on the core is none.
    """
    return next(filter(None, (_refusal_by(need, core) for need in requirements if _names_the_core(need))), "")


@cache
def _refusal_by(requirement: str, core: str) -> str:
    """Why one requirement is not met; many plugins have the same one."""
    from packaging.requirements import Requirement

    need = Requirement(requirement)
    if need.marker is not None and not need.marker.evaluate({"extra": ""}):
        return ""
    if not need.specifier.contains(core, prereleases=True):
        return f"it asks for {need}, and {CORE_DISTRIBUTION} is {core}"
    versions = sorted(extra for extra in need.extras if re.fullmatch(r"hooks-\d+", extra))
    if versions and f"hooks-{hooks.HOOKS_VERSION}" not in versions:
        return (
            f"it is written for version {' or '.join(v.removeprefix('hooks-') for v in versions)} of the hooks, "
            f"and {CORE_DISTRIBUTION} {core} has version {hooks.HOOKS_VERSION}"
        )
    return ""


def _names_the_core(requirement: str) -> bool:
    """Whether a requirement is one of the core, however its name is spelt: ``Leyden_Core`` is the same."""
    return normalized(re.split(r"[^\w.-]", requirement, maxsplit=1)[0]) == CORE_DISTRIBUTION


def normalized(distribution: str) -> str:
    """A distribution's name as package indices compare it: ``Leyden_Core`` is ``leyden-core``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def tell_of_deprecation(specification: Any, function: Callable[..., Any], arguments: Iterable[str], owner: str) -> None:
    """Warn the author of a hook implementation, once, where the hook or an argument that it takes is deprecated.

    Args:
        specification: The hook's specification.
        function: The implementation, which the warning points to.
        arguments: The names of the arguments that it takes.
        owner: Whose it is, as the warning says it.
    """
    marks: dict[str | None, str] = getattr(specification, hooks.DEPRECATED, {})
    for argument, instead in marks.items():
        if argument is None or argument in arguments:
            what = f"the hook {specification.__name__!r}"
            what = what if argument is None else f"the argument {argument!r} of {what}"
            code = getattr(function, "__code__", None)
            place = ("<unknown>", 1) if code is None else (code.co_filename, code.co_firstlineno)
            _tell_once(f"The {owner} uses {what}, which is deprecated; {instead}.", *place)


@cache
def _tell_once(message: str, filename: str, line: int) -> None:
    warnings.warn_explicit(message, DeprecationWarning, filename, line)

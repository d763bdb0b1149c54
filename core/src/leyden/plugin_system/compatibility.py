"""Whether a plugin and this version of the hooks go together.

A plugin states what it was written for in its requirements, which can be read without importing it: the versions of
the core (``leyden-core>=0.1``) and, as extras of it, those of the hook specifications (``leyden-core[hooks-1]``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

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

"""Discovery: which plugins are installed, what each one brings, and what is wrong with those that are set aside.

``discover()`` reads the entry points of the group ``leyden`` once per process, imports each plugin's
small module (never its parts), and registers it with pluggy. A plugin that is broken is set aside with
one warning; asking for something of it by name raises its own error.

A plugin states what it was written for in its requirements, which are read without importing it: the versions of
the core (``leyden-core>=0.1``) and, as extras of it, those of the hook specifications (``leyden-core[hooks-1]``).
"""

import copyreg
import importlib
import os
import re
import time
from collections.abc import Iterable
from functools import cache
from typing import Any

from importlib_metadata import EntryPoint, entry_points

from leyden.plugin_system import hooks
from leyden.plugin_system.manager import PluginInfo, PluginManager
from leyden.utilities import MisconfigurationException, rank_zero_warn

CORE_DISTRIBUTION = "leyden-core"


@cache
def discover() -> PluginManager:
    """The installed plugins, found and registered on the first call.

    ``LEYDEN_PLUGINS_AUTOLOAD=0`` registers the core alone; ``LEYDEN_PLUGINS_DISABLED=name,name`` leaves
    plugins out by the name of their entry point or of their distribution; ``LEYDEN_PLUGINS=name,name`` registers
    plugins where autoload is off, by the same names, and modules that are not installed as plugins.

    Raises:
        MisconfigurationException: A plugin of ``LEYDEN_PLUGINS`` is not there, or is broken.
    """
    manager = PluginManager()
    autoload = os.environ.get("LEYDEN_PLUGINS_AUTOLOAD", "1") != "0"
    disabled, wanted = names_in("LEYDEN_PLUGINS_DISABLED"), names_in("LEYDEN_PLUGINS")
    for point in sorted(entry_points(group="leyden"), key=_discovery_order):
        info, needs = _read_metadata(point)
        is_core = info.distribution == CORE_DISTRIBUTION
        if info.answers_to(disabled) and not is_core:
            info.disabled_by = "LEYDEN_PLUGINS_DISABLED"
        elif not (autoload or is_core or info.answers_to(wanted)):
            info.disabled_by = "LEYDEN_PLUGINS_AUTOLOAD=0"
        else:
            _load(manager, info, point, needs)
        if info.state != "active":
            manager.infos.append(info)
    for name in wanted:
        _admit_wanted(manager, name)
    return manager


def names_in(variable: str) -> list[str]:
    """The names in an environment variable, which are separated by commas."""
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]


def _discovery_order(point: EntryPoint) -> tuple[bool, str, str]:
    """The core first, then by name: the same order on every machine and rank."""
    return point.value.partition(".")[0] != "leyden", point.name, point.value


def _read_metadata(point: EntryPoint) -> tuple[PluginInfo, list[str]]:
    """What is known of the plugin before its import, and the requirements of its distribution.

    Read by line: to have the whole parsed as a message takes longer than to import most plugins.
    """
    dist = point.dist
    text = (dist.read_text("METADATA") or dist.read_text("PKG-INFO") or "") if dist is not None else ""
    fields: dict[str, list[str]] = {}
    for line in text.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(": ")
        fields.setdefault(key, []).append(value)
    name, version = (fields.get(key, [""])[0] for key in ("Name", "Version"))
    return PluginInfo(point.name, name, version), fields.get("Requires-Dist", [])


def _load(manager: PluginManager, info: PluginInfo, point: EntryPoint, needs: list[str]) -> None:
    """Import and register one plugin, or set it aside."""
    began = time.perf_counter()
    info.mend = f"pip install --upgrade {info.distribution}"
    try:
        _refuse(manager, info, needs)
        info.plugin = point.load()
        manager.admit(info)
    except (Exception, SystemExit) as error:
        info.error = error
        shared = any(other.name == info.name for other in manager.infos)
        handle = info.distribution if shared else info.name
        rank_zero_warn(
            f"The {info} is {info.reason}. "
            f"Mend it ({info.mend}), uninstall it, or disable it with LEYDEN_PLUGINS_DISABLED={handle}.",
            RuntimeWarning,
        )
    info.load_time = time.perf_counter() - began


def _refuse(manager: PluginManager, info: PluginInfo, needs: list[str]) -> None:
    """Refuse, before its import, a plugin of a name that is taken, or for another version of the core or its hooks."""
    for other in manager.infos:
        if other.name == info.name and other.state != "disabled":
            info.mend = f"pip uninstall {info.distribution}"
            raise MisconfigurationException(f"{other.distribution} has a plugin of that name.")
        if other.distribution == CORE_DISTRIBUTION and (reason := refusal(needs, other.version)):
            info.mend = f"pip install --upgrade {CORE_DISTRIBUTION} {info.distribution}"
            raise MisconfigurationException(reason)


def refusal(requirements: Iterable[str], core: str) -> str:
    """Why a plugin can't work with this core, in words, or "" where it can.

    Args:
        requirements: The requirements of the plugin's distribution, as they stand in its metadata.
        core: The version of the core.

    Raises:
        packaging.requirements.InvalidRequirement: A requirement on the core is none.
    """
    on_core = (need for need in requirements if normalized(re.split(r"[^\w.-]", need)[0]) == CORE_DISTRIBUTION)
    return next(filter(None, (_refusal_by(need, core) for need in on_core)), "")


@cache
def _refusal_by(requirement: str, core: str) -> str:
    """Why one requirement is not met; many plugins have the same one."""
    from packaging.requirements import Requirement

    need = Requirement(requirement)
    if need.marker is not None and not need.marker.evaluate({"extra": ""}):
        return ""
    if not need.specifier.contains(core, prereleases=True):
        return f"it asks for {need}, and {CORE_DISTRIBUTION} is {core}"
    versions = sorted(extra.removeprefix("hooks-") for extra in need.extras if re.fullmatch(r"hooks-\d+", extra))
    if versions and str(hooks.HOOKS_VERSION) not in versions:
        return (
            f"it is written for version {' or '.join(versions)} of the hooks, "
            f"and {CORE_DISTRIBUTION} {core} has version {hooks.HOOKS_VERSION}"
        )
    return ""


def normalized(distribution: str) -> str:
    """A distribution's name as package indices compare it: ``Leyden_Core`` is ``leyden-core``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _admit_wanted(manager: PluginManager, name: str) -> None:
    """See that a plugin of ``LEYDEN_PLUGINS`` is there: an installed one, or a module."""
    infos = [info for info in manager.infos if info.answers_to([name])]
    if any(info.state == "active" for info in infos):
        return
    try:
        for error in (info.error for info in infos if info.error is not None):
            raise error
        if not infos:
            manager.admit(PluginInfo(name, plugin=importlib.import_module(name)))
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]
        what = "no installed plugin and no module has that name" if missing else f"{type(error).__name__}: {error}"
        raise MisconfigurationException(f"LEYDEN_PLUGINS asks for {name!r}, which can't be used: {what}") from error


def _in_other_process(given: list[Any]) -> PluginManager:
    """A manager in another process: what is installed there, and the plugins that were given here."""
    return discover().extended(given) if given else discover()


def _elsewhere(manager: PluginManager) -> tuple[Any, ...]:
    return _in_other_process, ([info.plugin for info in manager.infos if info.given],)


copyreg.pickle(PluginManager, _elsewhere)

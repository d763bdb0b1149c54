"""Discovery: which plugins are installed, what each one brings, and what is wrong with those that are set aside.

``discover()`` reads the entry points of the group ``leyden`` once per process, imports each plugin's
small module (never its parts), and registers it with pluggy. A plugin that is broken is set aside with
one warning; asking for something of it by name raises its own error.
"""

from __future__ import annotations

import copyreg
import importlib
import os
import time
from functools import cache
from typing import Any

from importlib_metadata import EntryPoint, entry_points

from leyden.plugin_system.compatibility import CORE_DISTRIBUTION, refusal
from leyden.plugin_system.manager import PluginInfo, PluginManager
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_warn

GROUP = "leyden"


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
    found = sorted(entry_points(group=GROUP), key=_discovery_order)
    for point in found:
        info, needs = _read_metadata(point)
        names = {info.name, info.distribution}
        if not (autoload or names.intersection(wanted)):
            info.disabled_by = "LEYDEN_PLUGINS_AUTOLOAD=0"
        if names.intersection(disabled):
            info.disabled_by = "LEYDEN_PLUGINS_DISABLED"
        if info.disabled_by and not _is_core(info):
            info.state = "disabled"
            manager.infos.append(info)
        elif twin := next((r for r in manager.infos if r.name == info.name and r.state != "disabled"), None):
            info.mend = f"pip uninstall {info.distribution}"
            _set_aside(manager, info, MisconfigurationException(f"{twin.distribution} has a plugin of that name."))
        else:
            _load(manager, info, point, needs)
    for name in wanted:
        _admit_wanted(manager, name)
    return manager


def names_in(variable: str) -> list[str]:
    """The names in an environment variable, which are separated by commas."""
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]


def _discovery_order(point: EntryPoint) -> tuple[bool, str, str]:
    """The core first, then by name: the same order on every machine and rank."""
    return point.value.partition(".")[0] != "leyden", point.name, point.value


def _is_core(info: PluginInfo) -> bool:
    return info.distribution == CORE_DISTRIBUTION


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
        _refuse_other_hooks(manager, info, needs)
        info.plugin = point.load()
        manager.admit(info)
    except (Exception, SystemExit) as error:
        _set_aside(manager, info, error)
    info.load_time = time.perf_counter() - began


def _refuse_other_hooks(manager: PluginManager, info: PluginInfo, needs: list[str]) -> None:
    """Refuse, before its import, a plugin whose metadata asks for another version of the core or of its hooks."""
    core = next((other.version for other in manager.infos if _is_core(other)), None)
    if core is not None and (reason := refusal(needs, core)):
        info.mend = f"pip install --upgrade {CORE_DISTRIBUTION} {info.distribution}"
        raise MisconfigurationException(reason)


def _set_aside(manager: PluginManager, info: PluginInfo, error: BaseException) -> None:
    info.state, info.error = "set aside", error
    shared = any(other.name == info.name for other in manager.infos)
    handle = info.distribution if shared else info.name
    manager.infos.append(info)
    rank_zero_warn(
        f"The {info} is {info.reason}. "
        f"Mend it ({info.mend}), uninstall it, or disable it with LEYDEN_PLUGINS_DISABLED={handle}.",
        RuntimeWarning,
    )


def _admit_wanted(manager: PluginManager, name: str) -> None:
    """See that a plugin of ``LEYDEN_PLUGINS`` is there: an installed one, or a module."""
    infos = [info for info in manager.infos if name in (info.name, info.distribution)]
    if any(info.state == "active" for info in infos):
        return
    try:
        if broken := next((info for info in infos if info.state == "set aside"), None):
            assert broken.error is not None
            raise broken.error
        if not infos:
            manager.admit(PluginInfo(name, plugin=importlib.import_module(name)))
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]
        what = "no installed plugin and no module has that name" if missing else f"{type(error).__name__}: {error}"
        raise MisconfigurationException(f"LEYDEN_PLUGINS asks for {name!r}, which can't be used: {what}") from error


def _elsewhere(manager: PluginManager) -> tuple[Any, ...]:
    """A manager in another process: what is installed there, and the plugins that were given here."""
    return _in_other_process, ([info.plugin for info in manager.infos if info.given],)


def _in_other_process(given: list[Any]) -> PluginManager:
    return discover().extended(given) if given else discover()


copyreg.pickle(PluginManager, _elsewhere)

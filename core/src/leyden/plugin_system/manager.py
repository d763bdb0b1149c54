"""Discovery: which plugins are installed, what each one brings, and what is wrong with those that are set aside.

``discover()`` reads the entry points of the group ``leyden`` once per process, imports each plugin's
small module (never its parts), and registers it with pluggy. A plugin that is broken is set aside with
one warning; asking for something of it by name raises its own error.
"""

from __future__ import annotations

import difflib
import importlib
import os
import time
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any, Literal

import pluggy
from importlib_metadata import EntryPoint, entry_points

from leyden.interfaces.component import Component
from leyden.plugin_system import hooks
from leyden.plugin_system.compatibility import CORE_DISTRIBUTION, refusal, tell_of_deprecation
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_warn

GROUP = "leyden"
State = Literal["active", "disabled", "set aside"]


@dataclass
class PluginRecord:
    """What is known of one plugin, working or not.

    Attributes:
        name: The entry point's name, or the name under which ``Trainer(plugins=...)`` registered it.
        distribution: The distribution that it came with; "" for one that was not installed.
        version: That distribution's version.
        state: "active", "disabled" by the user, or "set aside" because of ``error``.
        load_time: Seconds that importing and registering it took.
        disabled_by: The environment variable by which it is disabled.
        given: Whether ``Trainer(plugins=...)`` or a run got it, not discovery.
        mend: The command that mends what set it aside.
    """

    name: str
    distribution: str = ""
    version: str = ""
    state: State = "active"
    plugin: Any = None
    components: tuple[Component, ...] = ()
    load_time: float = 0.0
    error: BaseException | None = None
    disabled_by: str = ""
    given: bool = False
    mend: str = ""

    @property
    def reason(self) -> str:
        """Why it is out of use: "disabled" or "set aside" with what did it; "" where it is active."""
        reasons = {
            "active": "",
            "disabled": f"disabled by {self.disabled_by}",
            "set aside": f"set aside: {type(self.error).__name__}: {str(self.error).rstrip('.')}",
        }
        return reasons[self.state]

    def __str__(self) -> str:
        source = f" of {self.distribution} {self.version}" if self.distribution else ""
        return f"plugin {self.name!r}{source}"


class PluginManager(pluggy.PluginManager):
    """pluggy's manager with Leyden's hook specifications and a record of every plugin."""

    def __init__(self) -> None:
        super().__init__(hooks.PROJECT)
        names = (*hooks.REGISTRATION, *hooks.OBSERVATION, *hooks.BEHAVIOUR)
        self.add_hookspecs(type("Specifications", (), {name: hooks.specification(name) for name in names}))
        self.records: list[PluginRecord] = []

    @property
    def active(self) -> list[PluginRecord]:
        """The records of the plugins that take part."""
        return [record for record in self.records if record.state == "active"]

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process: what is installed there, and the plugins that were given here."""
        given = [r.plugin for r in self.records if r.given]
        return _in_other_process, (given,)

    def admit(self, record: PluginRecord) -> None:
        """Register ``record.plugin`` and collect its components.

        Raises:
            MisconfigurationException: It is registered already, implements a hook that does not exist, wraps one that
                can't be wrapped, or brings something else than components.
            pluggy.PluginValidationError: A hook of it takes an argument that the hook does not offer.
        """
        if record.plugin is None or self.is_registered(record.plugin):
            raise MisconfigurationException(f"{record.plugin!r} is no plugin, or is registered already.")
        try:
            self.register(record.plugin, record.name)
            own = self._implementations_of(record)
            self._refuse_wrong_hooks(own)
            record.components = self._components_of(own)
        except BaseException:
            if self.has_plugin(record.name):  # some versions of pluggy keep what they could not register
                self.unregister(name=record.name)
            raise
        self.records.append(record)
        for name, impl in own.items():
            if (spec := getattr(self.hook, name).spec) is not None:
                tell_of_deprecation(spec.function, impl.function, impl.argnames, str(record))

    def _implementations_of(self, record: PluginRecord) -> dict[str, pluggy.HookImpl]:
        """What a registered plugin implements, by the hook's name."""
        callers = self.get_hookcallers(record.plugin) or ()
        return {c.name: impl for c in callers for impl in c.get_hookimpls() if impl.plugin is record.plugin}

    def _components_of(self, own: dict[str, pluggy.HookImpl]) -> tuple[Component, ...]:
        brings: Any = own["leyden_components"].function if "leyden_components" in own else tuple
        components = tuple(brings() or ())
        for part in components:
            if not isinstance(part, Component):
                raise MisconfigurationException(f"its leyden_components yields {part!r}, which is no Component.")
        return components

    def _refuse_wrong_hooks(self, own: dict[str, pluggy.HookImpl]) -> None:
        for name, impl in own.items():
            if name in hooks.CHAINED and is_wrapper(impl):
                handed_on = hooks.CHAINED[name]
                raise MisconfigurationException(f"it wraps {name!r}; take the {handed_on} and return another instead.")
            if getattr(self.hook, name).spec is None and not impl.optionalhook:
                known = [hook for hook in vars(self.hook) if getattr(self.hook, hook).spec is not None]
                near = difflib.get_close_matches(name, known, n=1)
                raise MisconfigurationException(
                    f"it implements {name!r}, which is no hook" + (f"; did it mean {near[0]!r}?" if near else ".")
                )

    def implementations(self, name: str) -> list[pluggy.HookImpl]:
        """Who implements a hook of the group Registration, in calling order."""
        found: list[pluggy.HookImpl] = getattr(self.hook, name).get_hookimpls()
        ordered = sorted(found, key=lambda impl: (impl.trylast, not impl.tryfirst))
        return ordered if name in hooks.CHAINED else found[::-1]

    def hand_on(self, name: str, **values: Any) -> Any:
        """Call a hook of :data:`~leyden.plugin_system.hooks.CHAINED`.

        Args:
            name: The hook.
            values: Its arguments.

        Returns:
            What the implementations have made of the argument that is handed on.
        """
        argument = hooks.CHAINED[name]
        for impl in self.implementations(name):
            result = impl.function(*(values[taken] for taken in impl.argnames))
            values[argument] = values[argument] if result is None else result
        return values[argument]

    def extended(self, plugins: list[Any]) -> PluginManager:
        """A manager of the same plugins and more; those that can't be registered raise."""
        manager = PluginManager()
        for record in self.active:
            manager.register(record.plugin, record.name)
        manager.records = list(self.records)
        for plugin in plugins:
            manager.admit_object(plugin)
        return manager

    def admit_object(self, plugin: Any) -> None:
        """Register a plugin that was not installed but given, under the name of its module or class.

        Raises:
            MisconfigurationException: It is no plugin, or can't be registered.
        """
        if not any(hasattr(getattr(plugin, name, None), f"{hooks.PROJECT}_impl") for name in dir(plugin)):
            raise MisconfigurationException(
                f"plugins: {plugin!r} has no function marked @leyden.hookimpl and is no component such as a Precision "
                "or a CheckpointIO."
            )
        own = getattr(plugin, "__name__", type(plugin).__name__)
        names = (own if number == 1 else f"{own}-{number}" for number in count(1))
        try:
            name = next(name for name in names if not self.has_plugin(name))
            self.admit(PluginRecord(name, plugin=plugin, given=True))
        except (MisconfigurationException, pluggy.PluginValidationError) as error:
            raise MisconfigurationException(f"plugins: {plugin!r} can't be registered: {error}") from error


def _in_other_process(given: list[Any]) -> PluginManager:
    return discover().extended(given) if given else discover()


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
        record, needs = _read_metadata(point)
        names = {record.name, record.distribution}
        if not (autoload or names.intersection(wanted)):
            record.disabled_by = "LEYDEN_PLUGINS_AUTOLOAD=0"
        if names.intersection(disabled):
            record.disabled_by = "LEYDEN_PLUGINS_DISABLED"
        if record.disabled_by and not _is_core(record):
            record.state = "disabled"
            manager.records.append(record)
        elif twin := next((r for r in manager.records if r.name == record.name and r.state != "disabled"), None):
            record.mend = f"pip uninstall {record.distribution}"
            _set_aside(manager, record, MisconfigurationException(f"{twin.distribution} has a plugin of that name."))
        else:
            _load(manager, record, point, needs)
    for name in wanted:
        _admit_wanted(manager, name)
    return manager


def names_in(variable: str) -> list[str]:
    """The names in an environment variable, which are separated by commas."""
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]


def is_wrapper(impl: pluggy.HookImpl) -> bool:
    """Whether an implementation runs around the others, in pluggy's new style or the old."""
    return bool(impl.wrapper or impl.hookwrapper)


def _discovery_order(point: EntryPoint) -> tuple[bool, str, str]:
    """The core first, then by name: the same order on every machine and rank."""
    return point.value.partition(".")[0] != "leyden", point.name, point.value


def _is_core(record: PluginRecord) -> bool:
    return record.distribution == CORE_DISTRIBUTION


def _read_metadata(point: EntryPoint) -> tuple[PluginRecord, list[str]]:
    """A record of the plugin, and the requirements of its distribution.

    Read by line: to have the whole parsed as a message takes longer than to import most plugins.
    """
    dist = point.dist
    text = (dist.read_text("METADATA") or dist.read_text("PKG-INFO") or "") if dist is not None else ""
    fields: dict[str, list[str]] = {}
    for line in text.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(": ")
        fields.setdefault(key, []).append(value)
    name, version = (fields.get(key, [""])[0] for key in ("Name", "Version"))
    return PluginRecord(point.name, name, version), fields.get("Requires-Dist", [])


def _load(manager: PluginManager, record: PluginRecord, point: EntryPoint, needs: list[str]) -> None:
    """Import and register one plugin, or set it aside."""
    began = time.perf_counter()
    record.mend = f"pip install --upgrade {record.distribution}"
    try:
        _refuse_other_hooks(manager, record, needs)
        record.plugin = point.load()
        manager.admit(record)
    except (Exception, SystemExit) as error:
        _set_aside(manager, record, error)
    record.load_time = time.perf_counter() - began


def _refuse_other_hooks(manager: PluginManager, record: PluginRecord, needs: list[str]) -> None:
    """Refuse, before its import, a plugin whose metadata asks for another version of the core or of its hooks."""
    core = next((other.version for other in manager.records if _is_core(other)), None)
    if core is not None and (reason := refusal(needs, core)):
        record.mend = f"pip install --upgrade {CORE_DISTRIBUTION} {record.distribution}"
        raise MisconfigurationException(reason)


def _set_aside(manager: PluginManager, record: PluginRecord, error: BaseException) -> None:
    record.state, record.error = "set aside", error
    shared = any(other.name == record.name for other in manager.records)
    handle = record.distribution if shared else record.name
    manager.records.append(record)
    rank_zero_warn(
        f"The {record} is {record.reason}. "
        f"Mend it ({record.mend}), uninstall it, or disable it with LEYDEN_PLUGINS_DISABLED={handle}.",
        RuntimeWarning,
    )


def _admit_wanted(manager: PluginManager, name: str) -> None:
    """See that a plugin of ``LEYDEN_PLUGINS`` is there: an installed one, or a module."""
    records = [record for record in manager.records if name in (record.name, record.distribution)]
    if any(record.state == "active" for record in records):
        return
    try:
        if broken := next((record for record in records if record.state == "set aside"), None):
            assert broken.error is not None
            raise broken.error
        if not records:
            manager.admit(PluginRecord(name, plugin=importlib.import_module(name)))
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]
        what = "no installed plugin and no module has that name" if missing else f"{type(error).__name__}: {error}"
        raise MisconfigurationException(f"LEYDEN_PLUGINS asks for {name!r}, which can't be used: {what}") from error

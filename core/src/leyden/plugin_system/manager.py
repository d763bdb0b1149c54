"""The plugins that take part: their hooks, which pluggy registers, and their components, by kind and name."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import count
from typing import Any

import pluggy

from leyden.interfaces.component import Component
from leyden.plugin_system import hooks
from leyden.utilities.exceptions import MisconfigurationException, UnknownComponentError


@dataclass
class PluginInfo:
    """What is known of one plugin, working or not.

    Attributes:
        name: The entry point's name, or the name under which ``Trainer(plugins=...)`` registered it.
        distribution: The distribution that it came with; "" for one that was not installed.
        version: That distribution's version.
        plugin: Its module or object.
        components: The parts that it brings.
        load_time: Seconds that importing and registering it took.
        error: Because of which it is set aside.
        disabled_by: The environment variable by which it is disabled.
        given: Whether it was given to a Trainer or a run, and not discovered.
        mend: The command that repairs it, where it is set aside.
    """

    name: str
    distribution: str = ""
    version: str = ""
    plugin: Any = None
    components: tuple[Component, ...] = ()
    load_time: float = 0.0
    error: BaseException | None = None
    disabled_by: str = ""
    given: bool = False
    mend: str = ""

    @property
    def state(self) -> str:
        """Whether it takes part: "active", "disabled" by the user, or "set aside" because of an error."""
        return "set aside" if self.error is not None else "disabled" if self.disabled_by else "active"

    @property
    def reason(self) -> str:
        """Why it is out of use: "disabled" or "set aside" with what did it; "" where it is active."""
        if self.error is not None:
            return f"set aside: {type(self.error).__name__}: {str(self.error).rstrip('.')}"
        return f"disabled by {self.disabled_by}" if self.disabled_by else ""

    def answers_to(self, names: Iterable[str]) -> bool:
        """Whether its name, or that of its distribution, is one of these."""
        return not {self.name, self.distribution}.isdisjoint(names)

    def __str__(self) -> str:
        source = f" of {self.distribution} {self.version}" if self.distribution else ""
        return f"plugin {self.name!r}{source}"


class PluginManager(pluggy.PluginManager):
    """pluggy's manager with Leyden's hook specifications, what is known of every plugin, and their components."""

    def __init__(self) -> None:
        super().__init__(hooks.PROJECT)
        self.add_hookspecs(type("Specifications", (), {name: hooks.specification(name) for name in hooks.ALL}))
        self.infos: list[PluginInfo] = []

    @property
    def active(self) -> list[PluginInfo]:
        """The plugins that take part."""
        return [info for info in self.infos if info.state == "active"]

    def admit(self, info: PluginInfo) -> None:
        """Register ``info.plugin`` and collect its components.

        Raises:
            MisconfigurationException: It is registered already, implements a hook that does not exist, or
                brings something else than components.
            pluggy.PluginValidationError: A hook of it takes an argument that the hook does not offer.
        """
        if info.plugin is None or self.is_registered(info.plugin):
            raise MisconfigurationException(f"{info.plugin!r} is no plugin, or is registered already.")
        try:
            self.register(info.plugin, info.name)
            callers = self.get_hookcallers(info.plugin) or ()
            own = {c.name: impl for c in callers for impl in c.get_hookimpls() if impl.plugin is info.plugin}
            self._refuse_unknown_hooks(own)
            brings: Any = own["leyden_components"].function if "leyden_components" in own else tuple
            info.components = tuple(brings() or ())
            for part in info.components:
                if not isinstance(part, Component):
                    raise MisconfigurationException(f"its leyden_components yields {part!r}, which is no Component.")
        except BaseException:
            if self.has_plugin(info.name):  # some versions of pluggy keep what they could not register
                self.unregister(name=info.name)
            raise
        self.infos.append(info)

    def _refuse_unknown_hooks(self, own: dict[str, pluggy.HookImpl]) -> None:
        for name, impl in own.items():
            if name not in hooks.ALL and not impl.optionalhook:
                near = difflib.get_close_matches(name, hooks.ALL, n=1)
                advice = f"; did it mean {near[0]!r}?" if near else "."
                raise MisconfigurationException(f"it implements {name!r}, which is no hook{advice}")

    def extended(self, plugins: list[Any]) -> PluginManager:
        """A manager of the same plugins and more; those that can't be registered raise."""
        manager = PluginManager()
        with warnings.catch_warnings():  # their authors were told of what is deprecated when they were found
            warnings.simplefilter("ignore", DeprecationWarning)
            for info in self.active:
                manager.register(info.plugin, info.name)
        manager.infos = list(self.infos)
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
                f"plugins: {plugin!r} is no component and has no function marked @hookimpl."
            )
        own = getattr(plugin, "__name__", type(plugin).__name__)
        names = (own if number == 1 else f"{own}-{number}" for number in count(1))
        try:
            name = next(name for name in names if not self.has_plugin(name))
            self.admit(PluginInfo(name, plugin=plugin, given=True))
        except (MisconfigurationException, pluggy.PluginValidationError) as error:
            raise MisconfigurationException(f"plugins: {plugin!r} can't be registered: {error}") from error

    # -- components -----------------------------------------------------------------------------------------

    def names(self, kind: str) -> list[str]:
        """The installed names of a kind, sorted, aliases left out."""
        return sorted({component.name for _, component in self._of_kind(kind)})

    def components(self, kind: str) -> list[Component]:
        """The installed components of a kind, in discovery order."""
        return [component for _, component in self._of_kind(kind)]

    def named(self, kind: str, name: str) -> list[Component]:
        """The components that answer to ``name``; several where an alias stands for a group of them."""
        return [component for _, component in self._of_kind(kind) if name in component.names]

    def component(self, kind: str | Sequence[str], name: str) -> Component:
        """The one component with that name or alias.

        Args:
            kind: Its kind, or several: the first that has such a component.
            name: What the user wrote.

        Raises:
            UnknownComponentError: There is none; the message lists the known names, the nearest spelling, and
                the distribution that has it where that is known.
            MisconfigurationException: Two distributions bring one of that name.
        """
        kinds = (kind,) if isinstance(kind, str) else kind
        for one in kinds:
            found = [(info, part) for info, part in self._of_kind(one) if name in part.names]
            if len(found) > 1:
                owners = " and the ".join(str(info) for info, _ in found)
                raise MisconfigurationException(
                    f"The {one} {name!r} is brought by the {owners}; uninstall or disable one of them "
                    f"(LEYDEN_PLUGINS_DISABLED={found[-1][0].name})."
                )
            if found:
                return found[0][1]
        raise self.unknown(kinds, name)

    def component_for(self, kind: str, cls: type) -> str | None:
        """The name of the component for a class: ``"package.module.Class"``, its own or that of one it derives from.

        Args:
            kind: Its kind.
            cls: The class.

        Raises:
            UnknownComponentError: It is known who brings one, and it is not installed.
        """
        for base in cls.__mro__:
            name = f"{base.__module__}.{base.__qualname__}"
            if self.named(kind, name) or published_by(kind, name)[0]:
                return self.component(kind, name).name
        return None

    def build(self, kind: str, value: Any, **arguments: Any) -> Any:
        """A part from what the user wrote: a name is looked up and built, a class is built, an instance is returned.

        Raises:
            UnknownComponentError: There is no such name.
            MisconfigurationException: It can't be built without arguments of its own, or two plugins bring it.
        """
        if not isinstance(value, (str, type)):
            return value
        make = self.component(kind, value).build if isinstance(value, str) else value
        try:
            return make(**arguments)
        except MisconfigurationException:
            raise  # it is a TypeError too, and says by itself what is wrong
        except TypeError as error:
            name = value if isinstance(value, str) else value.__name__
            message = f"The {kind} {name!r} can't be built: {error}; give an instance."
            raise MisconfigurationException(message) from error

    def unknown(self, kinds: Sequence[str], name: str) -> Exception:
        """The error for a name that nothing answers to; caused by the plugin's own where one was set aside for it.

        Args:
            kinds: The kinds of component that were looked through.
            name: What was looked for.
        """
        known = [installed for kind in kinds for installed in self.names(kind)]
        distribution, published = next(filter(any, (published_by(kind, name) for kind in kinds)), ("", False))
        missing = self._out_of_use(name, distribution)
        kind = " or ".join(kinds).replace("_", " ")
        message = f"There is no {kind} {name!r}; installed: {', '.join(known) or 'none'}."
        if missing is not None:
            message += f" The {missing} is {missing.reason}."
        elif published:
            message += f" It comes with {distribution}: pip install {distribution}."
        elif distribution:
            message += f" It is planned for {distribution} and not published yet."
        else:
            message += self._nearest(kinds, name)
            missing = next((info for info in self.infos if info.state == "set aside"), None)
            message += f" The {missing}, which may have it, is {missing.reason}." if missing is not None else ""
        error = UnknownComponentError(message)
        error.__cause__ = missing.error if missing is not None else None
        return error

    def advice(self, name: str, kind: str = "role") -> str:
        """What to do where no plugin brings something, such as a default for the Trainer's role "timer".

        Args:
            name: The role, or another name of the catalogue.
            kind: The kind under which the catalogue lists it.

        Returns:
            A clause: the command that installs a plugin which brings it, or why the installed one is out of use.
        """
        distribution = published_by(kind, name)[0]
        missing = self._out_of_use("", distribution)
        return f"pip install {distribution}" if missing is None else f"the {missing} is {missing.reason}"

    def _nearest(self, kinds: Sequence[str], name: str) -> str:
        """A question after the nearest name, of those installed and those that are known to be published."""
        known = {alias: "" for kind in kinds for part in self.components(kind) for alias in part.names}
        for kind in kinds:
            for published, distribution in catalogue()["published"].get(kind, {}).items():
                known.setdefault(published, f" (pip install {distribution})")
        near = difflib.get_close_matches(name, known, n=1)
        return f" Did you mean {near[0]!r}{known[near[0]]}?" if near else ""

    def _of_kind(self, kind: str) -> list[tuple[PluginInfo, Component]]:
        return [(info, part) for info in self.active for part in info.components if part.kind == kind]

    def _out_of_use(self, name: str, distribution: str) -> PluginInfo | None:
        """The plugin, set aside or disabled, that would have brought ``name``."""
        idle = [info for info in self.infos if info.state != "active"]
        return next((r for r in idle if r.name == name or r.distribution == distribution != ""), None)


@cache
def catalogue() -> dict[str, dict[str, dict[str, str]]]:
    """Which published or planned distribution brings which name: data, so that the code knows no plugin."""
    text = files("leyden.plugin_system").joinpath("catalogue.json").read_text(encoding="utf-8")
    sections: dict[str, dict[str, dict[str, str]]] = json.loads(text)
    return sections


def published_by(kind: str, name: str) -> tuple[str, bool]:
    """The distribution that is known to bring a name, or ""; and whether it is published already."""
    for section in ("published", "planned"):
        if distribution := catalogue()[section].get(kind, {}).get(name):
            return distribution, section == "published"
    return "", False

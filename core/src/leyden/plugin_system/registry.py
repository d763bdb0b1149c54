"""Look-ups of components by kind and name, and what to say when there is no such one."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from leyden.interfaces.component import Component
from leyden.plugin_system.manager import PluginManager, PluginRecord, discover
from leyden.utilities.exceptions import MisconfigurationException


class UnknownComponentError(MisconfigurationException, ImportError, ValueError):
    """No installed plugin brings a component of that kind and name."""


class Registry:
    """The components of a plugin manager.

    Args:
        manager: Whose plugins; the installed ones by default.
    """

    def __init__(self, manager: PluginManager | None = None) -> None:
        self.manager = manager or discover()

    def names(self, kind: str) -> list[str]:
        """The installed names of a kind, sorted, aliases left out."""
        return sorted({component.name for _, component in self._of_kind(kind)})

    def components(self, kind: str) -> list[Component]:
        """The installed components of a kind, in discovery order."""
        return [component for _, component in self._of_kind(kind)]

    def named(self, kind: str, name: str) -> list[Component]:
        """The components that answer to ``name``; several where an alias stands for a group of them."""
        return [component for _, component in self._of_kind(kind) if name in component.names]

    def get(self, kind: str | Sequence[str], name: str) -> Component:
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
            found = [(record, part) for record, part in self._of_kind(one) if name in part.names]
            if len(found) > 1:
                owners = " and the ".join(str(record) for record, _ in found)
                raise MisconfigurationException(
                    f"The {one} {name!r} is brought by the {owners}; uninstall or disable one of them "
                    f"(LEYDEN_PLUGINS_DISABLED={found[-1][0].name})."
                )
            if found:
                return found[0][1]
        raise self.unknown(kinds, name)

    def name_for(self, kind: str, cls: type) -> str | None:
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
                return self.get(kind, name).name
        return None

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
            missing = next((record for record in self.manager.records if record.state == "set aside"), None)
            message += f" The {missing}, which may have it, is {missing.reason}." if missing is not None else ""
        error = UnknownComponentError(message)
        error.__cause__ = missing.error if missing is not None else None
        return error

    def advice(self, name: str, kind: str = "role") -> str:
        """What to do where no plugin has a default for a role of the Trainer's, "timer" say.

        Args:
            name: The role, or what else the catalogue knows.
            kind: Where the catalogue has it.

        Returns:
            A clause: the command that installs a plugin that has one, or why the installed one is out of use.
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

    def _of_kind(self, kind: str) -> list[tuple[PluginRecord, Component]]:
        return [(record, part) for record in self.manager.active for part in record.components if part.kind == kind]

    def _out_of_use(self, name: str, distribution: str) -> PluginRecord | None:
        """The plugin, set aside or disabled, that would have brought ``name``."""
        idle = [record for record in self.manager.records if record.state != "active"]
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


def build(kind: str, value: Any, manager: PluginManager | None = None, **arguments: Any) -> Any:
    """A part from what the user wrote: a name is looked up and built, a class is built, an instance is returned.

    Raises:
        UnknownComponentError: There is no such name.
        MisconfigurationException: It can't be built without arguments of its own, or two plugins bring it.
    """
    if not isinstance(value, (str, type)):
        return value
    make = Registry(manager).get(kind, value).build if isinstance(value, str) else value
    try:
        return make(**arguments)
    except TypeError as error:
        name = value if isinstance(value, str) else value.__name__
        raise MisconfigurationException(f"The {kind} {name!r} can't be built: {error}; give an instance.") from error

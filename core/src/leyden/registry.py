"""Look-ups of components by kind and name, and what to say when there is no such one."""

from __future__ import annotations

import difflib
import json
from functools import cache
from importlib.resources import files
from typing import Any

from leyden.interfaces.component import Component
from leyden.manager import PluginManager, PluginRecord, discover
from leyden.utilities.exceptions import MisconfigurationException


class UnknownComponentError(MisconfigurationException, ImportError):
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

    def get(self, kind: str, name: str) -> Component:
        """The one component with that name or alias.

        Raises:
            UnknownComponentError: There is none; the message lists the known names, the nearest spelling, and
                the distribution that has it where that is known.
            MisconfigurationException: Two distributions bring one of that name.
        """
        found = [(record, part) for record, part in self._of_kind(kind) if name in part.names]
        if len(found) > 1:
            owners = " and ".join(str(record) for record, _ in found)
            raise MisconfigurationException(
                f"The {kind} {name!r} is brought by the {owners}; uninstall or disable one of them "
                f"(LEYDEN_PLUGINS_DISABLED={found[0][0].name})."
            )
        if not found:
            raise self.unknown(kind, name)
        return found[0][1]

    def unknown(self, kind: str, name: str) -> Exception:
        """The error for a name that nothing answers to; caused by the plugin's own where one was set aside for it."""
        known = self.names(kind)
        everything = [alias for part in self.components(kind) for alias in part.names]
        distribution, published = published_by(kind, name)
        broken = self._out_of_use(name, distribution)
        near = difflib.get_close_matches(name, everything, n=1)
        message = f"There is no {kind} {name!r}; installed: {', '.join(known) or 'none'}."
        if broken is not None and broken.state == "disabled":
            message += f" The {broken} is disabled by LEYDEN_PLUGINS_DISABLED or LEYDEN_PLUGINS_AUTOLOAD."
        elif broken is not None:
            message += f" The {broken} is set aside: {type(broken.error).__name__}: {broken.error}"
        elif distribution:
            message += (
                f" It comes with {distribution}: pip install {distribution}"
                if published
                else f" It is planned for {distribution} and not published yet."
            )
        elif near:
            message += f" Did you mean {near[0]!r}?"
        error = UnknownComponentError(message)
        error.__cause__ = broken.error if broken is not None else None
        return error

    def _of_kind(self, kind: str) -> list[tuple[PluginRecord, Component]]:
        return [
            (record, component)
            for record in self.manager.records
            if record.state == "active"
            for component in record.components
            if component.kind == kind
        ]

    def _out_of_use(self, name: str, distribution: str) -> PluginRecord | None:
        """The plugin, set aside or disabled, that would have brought ``name``."""
        for record in self.manager.records:
            if record.state != "active" and (record.name == name or record.distribution == distribution != ""):
                return record
        return None


@cache
def _catalogue() -> dict[str, dict[str, dict[str, str]]]:
    """Which published or planned distribution brings which name: data, so that the code knows no plugin."""
    text = files("leyden").joinpath("catalogue.json").read_text(encoding="utf-8")
    catalogue: dict[str, dict[str, dict[str, str]]] = json.loads(text)
    return catalogue


def published_by(kind: str, name: str) -> tuple[str, bool]:
    """The distribution that is known to bring a name, or ""; and whether it is published already."""
    for section in ("published", "planned"):
        if distribution := _catalogue()[section].get(kind, {}).get(name):
            return distribution, section == "published"
    return "", False


def build(kind: str, value: Any, manager: PluginManager | None = None, **arguments: Any) -> Any:
    """A part from what the user wrote: a name is looked up and built, a class is built, an instance is returned."""
    if isinstance(value, str):
        return Registry(manager).get(kind, value).build(**arguments)
    return value() if isinstance(value, type) else value

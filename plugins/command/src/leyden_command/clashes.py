"""Finds names that several parts of one kind have; asking for such a name is an error."""

from __future__ import annotations

from leyden.interfaces.component import Component
from leyden.plugin_system.manager import PluginManager, PluginRecord


def clashing_names(manager: PluginManager) -> list[tuple[str, str, list[PluginRecord]]]:
    """Return kind, name and plugins for each name that several parts have, so that ``Registry.get`` raises an error.

    An alias that several accelerators share is no clash: it means the best of them.
    """
    found: dict[tuple[str, str], list[tuple[PluginRecord, Component]]] = {}
    for record in manager.active:
        for part in record.components:
            for name in dict.fromkeys(part.names):
                found.setdefault((part.kind, name), []).append((record, part))
    return [
        (kind, name, [record for record, _ in owners])
        for (kind, name), owners in found.items()
        if len(owners) > 1 and (kind != "accelerator" or any(part.name == name for _, part in owners))
    ]

"""Names that several plugins bring, so that asking for one is an error."""

from __future__ import annotations

from leyden.interfaces.component import Component
from leyden.plugin_system.manager import PluginManager, PluginRecord


def clashing_names(manager: PluginManager) -> list[tuple[str, str, list[PluginRecord]]]:
    """Kind, name and plugins of each name for which ``Registry.get`` is an error because several parts have it.

    An alias that several accelerators share is none: it stands for the best of them.
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

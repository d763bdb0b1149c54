"""Finds names that several parts of one kind have; asking for such a name is an error."""

from __future__ import annotations

from leyden import Component
from leyden.plugins import PluginInfo, PluginManager


def clashing_names(manager: PluginManager) -> list[tuple[str, str, list[PluginInfo]]]:
    """Return kind, name and plugins of each name that several parts have: ``manager.component`` refuses such a name.

    An alias that several accelerators share is no clash: it means the best of them.
    """
    found: dict[tuple[str, str], list[tuple[PluginInfo, Component]]] = {}
    for info in manager.active:
        for part in info.components:
            for name in dict.fromkeys(part.names):
                found.setdefault((part.kind, name), []).append((info, part))
    return [
        (kind, name, [info for info, _ in owners])
        for (kind, name), owners in found.items()
        if len(owners) > 1 and (kind != "accelerator" or any(part.name == name for _, part in owners))
    ]

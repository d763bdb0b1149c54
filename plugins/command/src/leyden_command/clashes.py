"""Names that several plugins bring, so that asking for one is an error."""

from __future__ import annotations

from leyden import Component
from leyden.plugins import PluginInfo, PluginManager


def clashing_names(manager: PluginManager) -> list[tuple[str, str, list[PluginInfo]]]:
    """Kind, name and plugins of each name for which ``manager.component`` is an error because several parts have it.

    An alias that several accelerators share is none: it stands for the best of them.
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

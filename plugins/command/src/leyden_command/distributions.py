"""Leyden's own distributions: those in the core's catalogue, and those that bring no plugin."""

from __future__ import annotations

from leyden.plugin_system.manager import catalogue

WITHOUT_PLUGIN = ("leyden", "leyden-testing")  # of which the catalogue, that of plugins, knows nothing


def published() -> list[str]:
    """Those that bring a plugin, beside the core, sorted."""
    return sorted({name for names in catalogue()["published"].values() for name in names.values()})


def known() -> set[str]:
    """Those that are published and those that are planned."""
    of_plugins = {name for section in catalogue().values() for names in section.values() for name in names.values()}
    return of_plugins | {"leyden-core", *WITHOUT_PLUGIN}

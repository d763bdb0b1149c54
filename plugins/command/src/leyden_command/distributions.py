"""Leyden's own distributions, as the core's catalogue has them."""

from __future__ import annotations

from leyden.registry import catalogue


def published() -> list[str]:
    """Those that bring a plugin, beside the core, sorted."""
    return sorted({name for names in catalogue()["published"].values() for name in names.values()})


def known() -> set[str]:
    """Those that are published and those that are planned."""
    of_plugins = {name for section in catalogue().values() for names in section.values() for name in names.values()}
    return of_plugins | {"leyden-core", "leyden-testing"}

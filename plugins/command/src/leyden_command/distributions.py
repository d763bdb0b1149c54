"""The names of Leyden's own distributions: those in the core's catalogue, and those without a plugin."""

from __future__ import annotations

from leyden.plugins import catalogue

WITHOUT_PLUGIN = ("leyden", "leyden-testing")  # the catalogue lists only distributions with plugins


def published() -> list[str]:
    """Return the names of the published distributions with a plugin, without the core, sorted."""
    return sorted({name for names in catalogue()["published"].values() for name in names.values()})


def known() -> set[str]:
    """Return the names of all distributions, published and planned."""
    of_plugins = {name for section in catalogue().values() for names in section.values() for name in names.values()}
    return of_plugins | {"leyden-core", *WITHOUT_PLUGIN}

"""The catalogue of published components: which distribution brings which name, and the error where it is not there."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from leyden.utilities.exceptions import MisconfigurationException


class UnknownComponentError(MisconfigurationException, ImportError, ValueError):
    """No installed plugin brings a component of that kind and name."""


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

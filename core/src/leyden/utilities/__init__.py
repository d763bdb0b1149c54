"""Small helpers that are used everywhere; this module exports those that users import.

The components of kind "utility" of installed plugins can be imported from here too.
"""

import sys
from importlib import import_module
from typing import Any

from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_deprecation, rank_zero_info, rank_zero_only, rank_zero_warn

# imported on first use, since they belong to higher layers, or their import is slow and seldom needed
_LATER = {
    "AttributeDict": "leyden.utilities.attribute_dict",
    "CombinedLoader": "leyden.data.combined",
    "disable_possible_user_warnings": "leyden.utilities.warnings",
    "isolate_rng": "leyden.utilities.rng",
    "missing_metric": "leyden.utilities.monitoring",
    "move_data_to_device": "leyden.utilities.batch",
    "parse_duration": "leyden.utilities.durations",
}
__all__ = [
    "MisconfigurationException",
    "rank_zero_deprecation",
    "rank_zero_info",
    "rank_zero_only",
    "rank_zero_warn",
    *_LATER,
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    return import_module("leyden.plugin_system.windows").look(__name__, ("utility",), name, sys._getframe(1))


def __dir__() -> list[str]:
    listed: list[str] = import_module("leyden.plugin_system.windows").names(__name__, ("utility",))
    return listed

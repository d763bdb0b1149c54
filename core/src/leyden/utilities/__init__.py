"""Small things with clear names, used everywhere; this page lists those that users import."""

from importlib import import_module
from typing import Any

from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_deprecation, rank_zero_info, rank_zero_only, rank_zero_warn

# found on first use: they stand on layers above this one, or cost an import that few need
_LATER = {
    "AttributeDict": "leyden.utilities.attribute_dict",
    "CombinedLoader": "leyden.data.combined",
    "disable_possible_user_warnings": "leyden.utilities.warnings",
    "find_shared_parameters": "leyden.utilities.parameter_tying",
    "grad_norm": "leyden.utilities.grads",
    "isolate_rng": "leyden.utilities.rng",
    "measure_flops": "leyden.utilities.throughput",
    "move_data_to_device": "leyden.utilities.batch",
    "set_shared_parameters": "leyden.utilities.parameter_tying",
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
    try:
        return import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise AttributeError(str(error)) from error

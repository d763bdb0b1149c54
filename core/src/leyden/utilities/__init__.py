"""Small helpers that are used everywhere; this module exports those that users import.

It shows the utilities of installed plugins too: :mod:`leyden.plugin_system.windows`, a layer above, makes it a window.
"""

from collections.abc import Callable
from typing import Any

from leyden.utilities.batch import move_data_to_device
from leyden.utilities.durations import parse_duration
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.monitoring import missing_metric
from leyden.utilities.objects import AttributeDict
from leyden.utilities.rank_zero import rank_zero_deprecation, rank_zero_info, rank_zero_only, rank_zero_warn
from leyden.utilities.rng import isolate_rng
from leyden.utilities.warnings import disable_possible_user_warnings

__all__ = ["AttributeDict", "CombinedLoader", "MisconfigurationException", "disable_possible_user_warnings"]
__all__ += ["isolate_rng", "missing_metric", "move_data_to_device", "parse_duration"]
__all__ += ["rank_zero_deprecation", "rank_zero_info", "rank_zero_only", "rank_zero_warn"]

__getattr__: Callable[[str], Any]
__dir__: Callable[[], list[str]]

"""Small things with clear names, used everywhere; this page lists those that users import."""

from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn

__all__ = ["MisconfigurationException", "rank_zero_info", "rank_zero_only", "rank_zero_warn"]

"""The hand-written loop's way to accelerators, strategies and precisions, which an installed plugin brings."""

from leyden.plugin_system.windows import window
from leyden.utilities.rng import seed_everything

__all__ = ["seed_everything"]

__getattr__, __dir__ = window(__name__, "fabric")

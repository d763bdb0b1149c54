"""The hand-written loop's way to accelerators, strategies and precisions, which an installed plugin brings."""

from leyden.utilities.rng import seed_everything
from leyden.windows import window

__all__ = ["seed_everything"]

__getattr__, __dir__ = window(__name__, ("fabric",), __all__)

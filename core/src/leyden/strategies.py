"""The strategies that installed plugins bring, by class name."""

from leyden.interfaces.strategy import Strategy
from leyden.windows import window

__all__ = ["Strategy"]

__getattr__, __dir__ = window(__name__, ("strategy",), dict.fromkeys(__all__))

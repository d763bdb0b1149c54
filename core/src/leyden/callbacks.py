"""The callbacks that installed plugins bring, by class name."""

from leyden.windows import window

from leyden.callback import Callback

__all__ = ["Callback"]

__getattr__, __dir__ = window(__name__, ("callback",), dict.fromkeys(__all__))

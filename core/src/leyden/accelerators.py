"""The accelerators that installed plugins bring, by class name, and the functions that come with them."""

from leyden.windows import window

from leyden.interfaces.accelerator import Accelerator

__all__ = ["Accelerator"]

__getattr__, __dir__ = window(__name__, ("accelerator", "utility",), dict.fromkeys(__all__))

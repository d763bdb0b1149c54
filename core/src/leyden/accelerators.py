"""The accelerators that installed plugins bring, by class name, the functions beside them, and their base class."""

from leyden.interfaces.accelerator import Accelerator
from leyden.plugin_system.windows import window

__all__ = ["Accelerator"]

__getattr__, __dir__ = window(__name__, "accelerator", "accelerator_function")

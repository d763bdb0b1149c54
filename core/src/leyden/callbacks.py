"""The callbacks that installed plugins bring, by class name, and what they derive from."""

from leyden.callback import Callback
from leyden.plugin_system.windows import window

__all__ = ["Callback"]

__getattr__, __dir__ = window(__name__, "callback")

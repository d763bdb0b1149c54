"""The models and data to try things with that an installed plugin brings."""

from leyden.plugin_system.windows import window

__getattr__, __dir__ = window(__name__, "demo")

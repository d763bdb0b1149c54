"""The ``Tuner`` that an installed plugin brings."""

from leyden.plugin_system.windows import window

__getattr__, __dir__ = window(__name__, "tuner")

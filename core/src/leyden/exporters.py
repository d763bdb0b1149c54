"""The exporters that installed plugins bring: functions of a module and of the file to write."""

from leyden.plugin_system.windows import window

__getattr__, __dir__ = window(__name__, "exporter")

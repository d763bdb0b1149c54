"""The profilers that installed plugins bring, by class name, and what they derive from."""

from leyden.interfaces.profiler import PassThroughProfiler, Profiler
from leyden.plugin_system.windows import window

__all__ = ["PassThroughProfiler", "Profiler"]

__getattr__, __dir__ = window(__name__, "profiler")

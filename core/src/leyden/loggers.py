"""The loggers that installed plugins bring, by class name, and what their authors need."""

from leyden.interfaces.logger import DummyLogger, Logger
from leyden.plugin_system.windows import window

__all__ = ["DummyLogger", "Logger"]

__getattr__, __dir__ = window(__name__, "logger", "logger_part")

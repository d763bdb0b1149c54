"""The loggers that installed plugins bring, by class name, and what their authors need."""

from leyden.interfaces.logger import DummyLogger, Logger, as_mapping, rank_zero_experiment
from leyden.plugin_system.windows import window

__all__ = ["DummyLogger", "Logger", "as_mapping", "rank_zero_experiment"]

__getattr__, __dir__ = window(__name__, "logger", "logger_part")

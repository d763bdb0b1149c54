"""The loggers that installed plugins bring, by class name."""

from leyden.windows import window

from leyden.interfaces.logger import DummyLogger, Logger

__all__ = ["DummyLogger", "Logger"]

__getattr__, __dir__ = window(__name__, ("logger",), dict.fromkeys(__all__))

"""The strategies that installed plugins bring, by class name, and what they and their launchers derive from."""

from leyden.interfaces.strategy import Launcher, Strategy
from leyden.plugin_system.windows import window

__all__ = ["Launcher", "Strategy"]

__getattr__, __dir__ = window(__name__, "strategy")

"""The command line that an installed plugin brings, ``LightningCLI`` and what belongs to it."""

from leyden.plugin_system.windows import window

__getattr__, __dir__ = window(__name__, "cli")

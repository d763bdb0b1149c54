"""The precisions, environments and checkpoint IOs that installed plugins bring, by class name, and bases of parts."""

from leyden.interfaces.checkpoint_io import CheckpointIO
from leyden.interfaces.environment import Environment
from leyden.interfaces.precision import Precision
from leyden.interfaces.record import Record
from leyden.plugin_system.windows import window

__all__ = ["CheckpointIO", "Environment", "Precision", "Record"]

__getattr__, __dir__ = window(__name__, "precision", "checkpoint_io", "environment")

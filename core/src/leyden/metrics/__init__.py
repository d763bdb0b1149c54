"""What ``self.log`` keeps, reduces and hands to loggers, progress bars and callbacks.

``metrics.py`` takes the calls. ``options.py`` checks the first one of a name. ``records.py`` keeps the values of each
name, and all that one loop has logged. Nothing here reads a tensor's value, which waits for the device, before a
logger or a progress bar shows it.
"""

from leyden.metrics.metrics import Metrics
from leyden.metrics.options import LogOptions
from leyden.metrics.records import Moment, Results, TensorRecord

__all__ = ["LogOptions", "Metrics", "Moment", "Results", "TensorRecord"]

"""What ``self.log`` keeps, reduces and hands to loggers, progress bars and callbacks.

A call goes through the rooms in this order: ``logging.py`` takes it, for the Trainer; ``declaration.py`` checks the
first one of a name, and whose record it gets; ``record.py`` keeps the values of a name; ``loop.py`` holds the records
of a loop. ``options.py`` has the arguments. Nothing here reads a tensor's value (and so waits for the device) before a
logger or a progress bar shows it.
"""

from leyden.metrics.metrics import Metrics
from leyden.metrics.options import LogOptions
from leyden.metrics.record import TensorRecord
from leyden.metrics.results import Moment, Results

__all__ = ["LogOptions", "Metrics", "Moment", "Results", "TensorRecord"]

"""The loggers that installed plugins bring, by class name, and what their authors need."""

from leyden.interfaces.logger import DummyLogger, Logger, flatten_params, rank_zero_experiment
from leyden.interfaces.run_directory import RunDirectoryLogger, as_mapping, save_hparams
from leyden.windows import window

__all__ = [
    "DummyLogger",
    "Logger",
    "RunDirectoryLogger",
    "as_mapping",
    "flatten_params",
    "rank_zero_experiment",
    "save_hparams",
]

__getattr__, __dir__ = window(__name__, ("logger",), __all__)

"""A base class and functions for loggers that write files to a run's directory."""

from leyden_logfiles.hparams import flatten_params, load_hparams, save_hparams
from leyden_logfiles.run_directory import RunDirectoryLogger

__all__ = ["RunDirectoryLogger", "flatten_params", "load_hparams", "save_hparams"]

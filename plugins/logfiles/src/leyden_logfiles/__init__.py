"""A base class and functions for loggers that write files to a run's directory."""

from leyden_logfiles.experiment import rank_zero_experiment
from leyden_logfiles.hparams import as_mapping, flatten_params, load_hparams, save_hparams
from leyden_logfiles.run_directory import RunDirectoryLogger

__all__ = ["RunDirectoryLogger", "as_mapping", "flatten_params", "load_hparams", "rank_zero_experiment", "save_hparams"]

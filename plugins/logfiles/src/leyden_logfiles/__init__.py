"""What loggers that write files derive from: one directory for each run, which they share."""

from leyden_logfiles.hparams import load_hparams, save_hparams
from leyden_logfiles.run_directory import RunDirectoryLogger

__all__ = ["RunDirectoryLogger", "load_hparams", "save_hparams"]

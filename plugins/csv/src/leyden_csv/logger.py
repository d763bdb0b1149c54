"""The CSV logger: writes metrics as rows of ``metrics.csv``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_only
from leyden_csv.writer import ExperimentWriter
from leyden_logfiles.experiment import rank_zero_experiment
from leyden_logfiles.hparams import as_mapping
from leyden_logfiles.run_directory import RunDirectoryLogger


class CSVLogger(RunDirectoryLogger):
    """Writes metrics to ``save_dir/name/version/metrics.csv`` and hyperparameters to ``hparams.yaml`` beside it.

    Each call of :meth:`log_metrics` is a row; the cells of metrics that it did not log are empty. The columns are
    sorted by name, ``epoch`` and ``step`` included.

    Args:
        save_dir: The directory of all experiments, a path or an fsspec URL.
        name: The experiment's name, a directory in ``save_dir``; with None or "" the runs are in ``save_dir`` itself.
        version: The run's name, a directory in the experiment's: an int n means ``version_n``, a string is used
            unchanged. The default is the first unused number. The metrics of an existing run are replaced, with a
            warning; a fit that resumes from a checkpoint of that run keeps the rows from before it.
        prefix: Text to put before the names of all metrics, followed by a hyphen.
        flush_logs_every_n_steps: Pending rows are written to the file after this many steps; at least 1.

    Raises:
        MisconfigurationException: ``flush_logs_every_n_steps`` is below 1.

    Example::

        trainer = Trainer(logger=CSVLogger("logs", name="digits"))
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        prefix: str = "",
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        super().__init__(save_dir, name, version, prefix)
        if flush_logs_every_n_steps < 1:
            raise MisconfigurationException(
                f"flush_logs_every_n_steps={flush_logs_every_n_steps!r} must be a number of steps, at least 1."
            )
        self._flush_every = flush_logs_every_n_steps
        self._next_flush = flush_logs_every_n_steps
        self._experiment: ExperimentWriter | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer of this run's files."""
        if self._experiment is None:
            self._experiment = ExperimentWriter(self.log_dir)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a row.

        Args:
            metrics: The values by name: numbers, or tensors with one element.
            step: The row's ``step``; by default the number of rows so far.
        """
        experiment = self.experiment
        if step is None:
            step = experiment.rows
        experiment.log_metrics(self._with_prefix(metrics), step)
        if step + 1 >= self._next_flush or len(experiment.metrics) >= self._flush_every:
            experiment.save()
            self._next_flush = step + 1 + self._flush_every - (step + 1) % self._flush_every

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Write hyperparameters (a mapping or a Namespace) to ``hparams.yaml``, together with those logged before."""
        self.experiment.log_hparams(as_mapping(params))

    def state_dict(self) -> dict[str, Any]:
        """Return the number of rows so far, all of which are written now, and the last of them."""
        self.save()
        return self._experiment.state_dict() if self._experiment is not None else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep the rows of the file up to the last one of the checkpoint, if the file has it, and go on after it."""
        self.experiment.load_state_dict(state)

    @rank_zero_only
    def save(self) -> None:
        """Write the pending rows to the file."""
        if self._experiment is not None:
            self._experiment.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the pending rows; the logger can still be used for another run."""
        self.save()

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Write the pending rows, so that no rows from before the checkpoint are missing when a run resumes from it."""
        self.save()

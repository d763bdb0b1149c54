"""The CSV logger: what a Trainer logs, as rows of ``metrics.csv``."""

from __future__ import annotations

import os
from typing import Any

from leyden.loggers import as_mapping, rank_zero_experiment
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_only
from leyden_csv.writer import ExperimentWriter
from leyden_logfiles.run_directory import RunDirectoryLogger


class CSVLogger(RunDirectoryLogger):
    """Keeps metrics in ``save_dir/name/version/metrics.csv`` and hyperparameters in ``hparams.yaml`` beside it.

    Each call of :meth:`log_metrics` is a row; a metric that a row has not leaves its cell empty. The columns
    are sorted by name, ``epoch`` and ``step`` among them.

    Args:
        save_dir: Directory of all experiments, a path or an fsspec URL.
        name: The experiment, a directory in ``save_dir``; None or "" for none of its own.
        version: The run, a directory in that of the experiment: an int n stands for ``version_n``, a string
            for itself. By default the first free number. The metrics of a run that is there already are
            replaced, which is said.
        prefix: Put before the names of all metrics, with a hyphen.
        flush_logs_every_n_steps: Steps after which the pending rows are written to the file, at least 1.

    Raises:
        MisconfigurationException: If ``flush_logs_every_n_steps`` is below 1.

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
            metrics: Name to number, or to a tensor with one element.
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
        """Write hyperparameters (a mapping or a Namespace) to ``hparams.yaml``, added to those logged before."""
        self.experiment.log_hparams(as_mapping(params))

    @rank_zero_only
    def save(self) -> None:
        """Write the pending rows to the file."""
        if self._experiment is not None:
            self._experiment.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is pending; the logger may be used for another run."""
        self.save()

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Write the pending rows, so that a run resumed from the checkpoint has all that came before it."""
        self.save()

"""SQLiteLogger: writes metrics as rows of a database, which other programs can query during a run."""

from __future__ import annotations

import os
from typing import Any

from leyden.loggers import flatten_params
from leyden.utilities import MisconfigurationException, rank_zero_only
from leyden_logfiles import RunDirectoryLogger
from leyden_sqlite.database import Database

FILE = "metrics.sqlite"


class SQLiteLogger(RunDirectoryLogger):
    """Writes the metrics and hyperparameters of all runs of a directory to ``save_dir/metrics.sqlite``.

    Every call is a commit, so other processes see logged values at once. A value that is logged again for the same
    run, name and step replaces the first one. A run that resumes from a checkpoint with its old ``version`` therefore
    replaces the steps that it repeats. SQLite has no NaN; it is stored as NULL.

    Args:
        save_dir: The directory of all experiments, on a local disk.
        name: The experiment's name.
        version: The run's version within the experiment. The default is the first unused number; pass that of an
            earlier run to continue it.

    Raises:
        MisconfigurationException: ``save_dir`` is a URL.

    Example::

        trainer = Trainer(logger=SQLiteLogger("logs", name="digits"))
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "lightning_logs",
        version: int | str | None = None,
    ) -> None:
        if "://" in os.fspath(save_dir):
            raise MisconfigurationException(
                f"save_dir={os.fspath(save_dir)!r} is a URL, but SQLite writes only to local disks; give a directory."
            )
        super().__init__(save_dir, name, version, prefix="")
        self._must_choose_version = version is None
        self._is_new = False
        self._database: Database | None = None
        self._run = 0

    @property
    def file(self) -> str:
        """The path of the database."""
        return os.path.join(self.save_dir, FILE)

    @property
    def version(self) -> int | str:
        """The run's version: the given one, or the first number that neither a run nor a directory has."""
        if self._must_choose_version:
            free = super().version
            self.take_version(max(self._next_version(), free) if isinstance(free, int) else free)
            self._is_new = True
        return super().version

    def take_version(self, version: int | str | None) -> None:
        """Use the version that rank 0 chose."""
        self._must_choose_version = self._is_new = False
        super().take_version(version)

    def _next_version(self) -> int:
        if not os.path.exists(self.file):
            return 0
        database = Database(self.file)
        try:
            return max((int(version) for version in database.versions(self.name) if version.isdigit()), default=-1) + 1
        finally:
            database.close()

    @property
    def _open(self) -> Database:
        """The open database; the first use begins this run in it."""
        if self._database is None:
            database = Database(self.file)
            self._run = database.begin(self.name, str(self.version), self._is_new)
            self._is_new, self._database = False, database
        return self._database

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add the metrics of a step.

        Args:
            metrics: The values by name: numbers, or tensors with one element.
            step: The step; by default the one after the run's last step.
        """
        database = self._open
        database.add_metrics(self._run, metrics, database.next_step(self._run) if step is None else step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Add hyperparameters, a mapping or a Namespace; nested ones get names such as ``optimizer/lr``.

        Numbers and texts are stored unchanged, None as NULL, True as 1, and any other value as text.
        """
        self._open.add_hyperparameters(self._run, flatten_params(params))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Store how the run ended and close the file; the logger can be used again."""
        if self._database is not None:
            self._database.end(self._run, status)
            self._database.close()
            self._database = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the connection, which can't be pickled; a copy opens its own."""
        return {**self.__dict__, "_database": None}

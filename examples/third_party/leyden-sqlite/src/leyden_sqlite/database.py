"""The database: its tables, and functions that add runs, metrics and hyperparameters."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

from leyden.utilities import MisconfigurationException

TABLES = """
CREATE TABLE IF NOT EXISTS run (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL, started REAL NOT NULL, status TEXT NOT NULL,
    UNIQUE (name, version)
);
CREATE TABLE IF NOT EXISTS metric (
    run INTEGER NOT NULL REFERENCES run, name TEXT NOT NULL, step INTEGER NOT NULL, value REAL, time REAL NOT NULL,
    PRIMARY KEY (run, name, step)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hyperparameter (
    run INTEGER NOT NULL REFERENCES run, name TEXT NOT NULL, value,
    PRIMARY KEY (run, name)
) WITHOUT ROWID;
"""
LOCK_TIMEOUT = 60.0  # seconds to wait for another run that writes to the same file


class Database:
    """An open database file of runs; other processes may read it and write to it too.

    Args:
        path: The path of the file; the file and its directory are made if they do not exist.

    Raises:
        MisconfigurationException: The file can't be opened, or is not a database.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT, isolation_level=None)
            # With a write-ahead log readers do not wait for writers, and commits do not wait for the disk. A crash of
            # the machine (but not of the process) may lose the last commits, but does not damage the file.
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(TABLES)
        except (OSError, sqlite3.Error) as error:
            raise MisconfigurationException(
                f"The database {path!r} can't be written: {error}; give another save_dir, or move the file away."
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def versions(self, name: str) -> list[str]:
        """Return the versions of an experiment."""
        return [version for (version,) in self._connection.execute("SELECT version FROM run WHERE name = ?", (name,))]

    def begin(self, name: str, version: str, is_new: bool) -> int:
        """Begin a run, or continue the run with that name and version; return its id.

        Args:
            name: The experiment's name.
            version: The run's version.
            is_new: Whether such a run must not exist yet.

        Raises:
            MisconfigurationException: ``is_new`` is True but the run exists.
        """
        added = self._connection.execute(
            "INSERT OR IGNORE INTO run (name, version, started, status) VALUES (?, ?, ?, 'running')",
            (name, version, time.time()),
        ).rowcount
        if is_new and not added:
            raise MisconfigurationException(
                f"Another run has taken version {version} of {name!r} in {self.path!r} since it was chosen; start "
                "again, or give each run its own version."
            )
        where = "name = ? AND version = ?"
        self._connection.execute(f"UPDATE run SET status = 'running' WHERE {where}", (name, version))
        found = self._connection.execute(f"SELECT id FROM run WHERE {where}", (name, version)).fetchone()
        return int(found[0])

    def end(self, run: int, status: str) -> None:
        """Set the status of a run that ended."""
        self._connection.execute("UPDATE run SET status = ? WHERE id = ?", (status, run))

    def next_step(self, run: int) -> int:
        """Return the step after the last step of a run."""
        query = "SELECT COALESCE(MAX(step) + 1, 0) FROM metric WHERE run = ?"
        return int(self._connection.execute(query, (run,)).fetchone()[0])

    def add_metrics(self, run: int, metrics: Mapping[str, float], step: int) -> None:
        """Add the metrics of a step, all or none; they replace those with the same name and step."""
        now = time.time()
        rows = [(run, name, step, float(value), now) for name, value in metrics.items()]
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany("INSERT OR REPLACE INTO metric VALUES (?, ?, ?, ?, ?)", rows)
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def add_hyperparameters(self, run: int, params: Mapping[str, Any]) -> None:
        """Add hyperparameters; they replace those with the same name."""
        rows = [(run, name, _plain(value)) for name, value in params.items()]
        self._connection.executemany("INSERT OR REPLACE INTO hyperparameter VALUES (?, ?, ?)", rows)


def _plain(value: Any) -> Any:
    """Return a value of a type that SQLite has unchanged; any other value as text."""
    is_small = isinstance(value, int) and value.bit_length() < 64
    return value if value is None or is_small or isinstance(value, (float, str)) else str(value)

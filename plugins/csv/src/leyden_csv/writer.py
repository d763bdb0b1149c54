"""Writes the files of one run of the CSV logger: appends rows, and rewrites the file for a new column.

A resumed run keeps the rows up to its checkpoint, which says how many there were and which was the last.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from itertools import islice
from typing import Any

from leyden.utilities.rank_zero import rank_zero_warn
from leyden.utilities.storage import replacing
from leyden_logfiles.hparams import save_hparams
from leyden_logfiles.run_directory import RunDirectoryLogger
from leyden_logfiles.storage import is_file, open_text


class ExperimentWriter:
    """Writes ``metrics.csv`` and ``hparams.yaml``; the directory is made when the first file is written.

    Args:
        log_dir: The run's directory, a path or an fsspec URL. An existing ``metrics.csv`` is replaced when the first
            rows are written, unless :meth:`load_state_dict` finds in it the rows from before a checkpoint.

    Attributes:
        metrics: The rows that were not written yet.
        metrics_keys: The columns of the file, sorted.
        rows: The number of rows logged so far.
        hparams: The hyperparameters logged so far.
    """

    NAME_HPARAMS_FILE = RunDirectoryLogger.NAME_HPARAMS_FILE
    NAME_METRICS_FILE = "metrics.csv"

    def __init__(self, log_dir: str) -> None:
        self.log_dir = log_dir
        self.metrics_file_path = os.path.join(log_dir, self.NAME_METRICS_FILE)
        self.metrics: list[dict[str, Any]] = []
        self.metrics_keys: list[str] = []
        self.rows = 0
        self.hparams: dict[str, Any] = {}
        self._last: dict[str, str] = {}
        self._resumed_after: int | None = None  # how many rows of the file are kept, until it is written again

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row, which :meth:`save` writes; the default ``step`` is the number of rows so far."""
        row = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
        row["step"] = self.rows if step is None else step
        if self._resumed_after is not None and not self.metrics and _cells(row) == self._last:
            return  # of a checkpoint within a validation, before which a resumed run logs the step again
        if not self.rows and self._resumed_after is None and is_file(self.metrics_file_path):
            rank_zero_warn(
                f"{self.metrics_file_path} is from an earlier run and will be replaced by this run's metrics; "
                "give the logger another version to keep it."
            )
        self.metrics.append(row)
        self.rows += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the number of rows, of which none is pending, and the cells of the last; {} if there are none."""
        return {"rows": self.rows, "last": self._last} if self.rows else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep as many rows of the file as there were, if it has the last of them; what follows is logged again.

        A file without that row is another run's. Without a state, all rows of the file are logged again.
        """
        if self.metrics_keys:  # the checkpoint is of a run in this process
            self.save()
        if not is_file(self.metrics_file_path):
            return
        if not state:
            self._resumed_after = 0
            return
        with open_text(self.metrics_file_path, "r") as file:
            reader = csv.DictReader(file)
            last = next(islice(reader, state["rows"] - 1, None), {})
        if _cells(last) == state["last"]:
            self.metrics_keys = list(reader.fieldnames or ())
            self.rows, self._last = state["rows"] + len(self.metrics), dict(state["last"])
            self._resumed_after = state["rows"]

    def log_hparams(self, params: Mapping[str, Any]) -> None:
        """Add hyperparameters and write them all."""
        self.hparams.update(params)
        save_hparams(os.path.join(self.log_dir, self.NAME_HPARAMS_FILE), self.hparams)

    def save(self) -> None:
        """Write the pending rows; they stay pending if writing fails."""
        if not self.metrics:
            return
        keys = sorted(set(self.metrics_keys).union(*self.metrics))
        has_rows = bool(self.metrics_keys) and is_file(self.metrics_file_path)  # the user may have moved the file away
        if has_rows and keys == self.metrics_keys and self._resumed_after is None:
            with open_text(self.metrics_file_path, "a") as file:
                csv.DictWriter(file, keys).writerows(self.metrics)
        else:
            self._write_with_columns(keys, has_rows)
        self.metrics_keys, self._resumed_after = keys, None
        self._last = _cells(self.metrics[-1])
        self.metrics = []

    def _write_with_columns(self, keys: list[str], keep_rows: bool) -> None:
        """Replace the file by one with these columns; ``keep_rows`` copies the old file's rows."""
        with replacing(self.metrics_file_path, "w") as new:
            writer = csv.DictWriter(new, keys)
            writer.writeheader()
            if keep_rows:
                with open_text(self.metrics_file_path, "r") as old:
                    writer.writerows(islice(csv.DictReader(old), self._resumed_after))
            writer.writerows(self.metrics)


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a row as they are in the file, without the empty ones."""
    return {name: str(value) for name, value in row.items() if value not in (None, "")}

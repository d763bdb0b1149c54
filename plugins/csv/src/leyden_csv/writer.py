"""Writes the files of one run of the CSV logger: appends rows, and rewrites the file for a new column."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
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
            rows are written.

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
        if is_file(self.metrics_file_path):
            rank_zero_warn(
                f"{self.metrics_file_path} is from an earlier run and will be replaced by this run's metrics; "
                "give the logger another version to keep it."
            )

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row, which :meth:`save` writes; the default ``step`` is the number of rows so far."""
        row = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
        row["step"] = self.rows if step is None else step
        self.metrics.append(row)
        self.rows += 1

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
        if has_rows and keys == self.metrics_keys:
            with open_text(self.metrics_file_path, "a") as file:
                csv.DictWriter(file, keys).writerows(self.metrics)
        else:
            self._write_with_columns(keys, has_rows)
        self.metrics_keys = keys
        self.metrics = []

    def _write_with_columns(self, keys: list[str], keep_rows: bool) -> None:
        """Replace the file by one with these columns; ``keep_rows`` copies the old file's rows."""
        with replacing(self.metrics_file_path, "w") as new:
            writer = csv.DictWriter(new, keys)
            writer.writeheader()
            if keep_rows:
                with open_text(self.metrics_file_path, "r") as old:
                    writer.writerows(csv.DictReader(old))
            writer.writerows(self.metrics)

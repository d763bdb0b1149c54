"""The quux logger: metrics as lines of JSON, which any tool can follow while a run goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from leyden.loggers import as_mapping
from leyden.utilities import rank_zero_only
from leyden_logfiles import RunDirectoryLogger, save_hparams


class QuuxLogger(RunDirectoryLogger):
    """Writes ``save_dir/name/version_N/metrics.jsonl``, and hyperparameters to ``hparams.yaml`` beside it.

    Each call is a line such as ``{"step": 3, "loss": 0.5}``; a run that goes on in the directory of an earlier one
    adds to its lines.

    Args:
        save_dir: Directory of all experiments.
        name: The experiment, a directory in ``save_dir``.
        version: The run, a directory in that of the experiment; by default the first free number.

    Example::

        trainer = Trainer(logger="quux")
    """

    def __init__(
        self, save_dir: str | os.PathLike[str], name: str | None = "quux_logs", version: int | str | None = None
    ) -> None:
        super().__init__(save_dir, name, version, prefix="")
        self._pending: list[str] = []
        self._hparams: dict[str, Any] = {}

    @property
    def path(self) -> Path:
        """The file of the metrics."""
        return Path(self.log_dir) / "metrics.jsonl"

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a line; :meth:`save` writes it. JSON has no inf and nan, and Python's own words stand for them."""
        values = {name: float(value) for name, value in metrics.items()}
        self._pending.append(json.dumps({"step": step, **values}))
        if len(self._pending) >= 100:
            self.save()

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write hyperparameters (a mapping or a Namespace), added to those logged before."""
        self._hparams.update(as_mapping(params))
        Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        save_hparams(str(Path(self.log_dir) / self.NAME_HPARAMS_FILE), self._hparams)

    @rank_zero_only
    def save(self) -> None:
        """Write the lines that are not written yet."""
        if self._pending:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in self._pending)
            self._pending.clear()

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Write too, so that a run resumed from the checkpoint has all that came before it."""
        self.save()

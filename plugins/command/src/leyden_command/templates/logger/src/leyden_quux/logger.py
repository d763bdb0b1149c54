"""The quux logger: writes metrics as lines of JSON, which other tools can read during a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from leyden.utilities import rank_zero_only
from leyden_logfiles import RunDirectoryLogger, as_mapping, save_hparams


class QuuxLogger(RunDirectoryLogger):
    """Writes metrics to ``save_dir/name/version_N/metrics.jsonl`` and hyperparameters to ``hparams.yaml`` beside it.

    Each call of ``log_metrics`` writes a line such as ``{"step": 3, "loss": 0.5}``. A run in the directory of an
    earlier run appends to its lines.

    Args:
        save_dir: The directory of all experiments.
        name: The experiment's name, a directory in ``save_dir``.
        version: The run's name, a directory in the experiment's; by default the first unused number.

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
        """The path of the metrics file."""
        return Path(self.log_dir) / "metrics.jsonl"

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a line, which :meth:`save` writes; infinity and NaN are written as ``Infinity`` and ``NaN``."""
        values = {name: float(value) for name, value in metrics.items()}
        self._pending.append(json.dumps({"step": step, **values}))
        if len(self._pending) >= 100:
            self.save()

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write hyperparameters (a mapping or a Namespace) together with those logged before."""
        self._hparams.update(as_mapping(params))
        Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        save_hparams(str(Path(self.log_dir) / self.NAME_HPARAMS_FILE), self._hparams)

    @rank_zero_only
    def save(self) -> None:
        """Write the lines that were not written yet."""
        if self._pending:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in self._pending)
            self._pending.clear()

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Write the lines, so that no metrics from before the checkpoint are missing when a run resumes from it."""
        self.save()

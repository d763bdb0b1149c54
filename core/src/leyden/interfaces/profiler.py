"""Profiler: how long each part of a run takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from leyden.utilities.rank_zero import rank_zero_info


class Profiler:
    """Base class of profilers; as it stands it measures nothing.

    An author *must* override :meth:`start`, :meth:`stop` and :meth:`summary`, and *may* override the rest. Where no
    profiler was asked for, the loops do not call one at all.

    Args:
        dirpath: Directory of the report; the run's log directory by default.
        filename: Name of the report without its ending. Without one the report is printed.
    """

    def __init__(self, dirpath: str | Path | None = None, filename: str | None = None) -> None:
        self.dirpath = dirpath
        self.filename = filename
        self._stage: str | None = None

    def start(self, action_name: str) -> None:
        """An action begins."""

    def stop(self, action_name: str) -> None:
        """The action ends."""

    def summary(self) -> str:
        """The report."""
        return ""

    @contextmanager
    def profile(self, action_name: str) -> Iterator[None]:
        """Measure a block: ``with self.profile("load data"): ...``."""
        self.start(action_name)
        try:
            yield
        finally:
            self.stop(action_name)

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """A run begins."""
        self._stage = stage
        self._local_rank = local_rank
        self.dirpath = self.dirpath or log_dir

    def describe(self) -> None:
        """Print the report, or write it to ``dirpath/stage-filename[-rank].txt``."""
        report = self.summary()
        if not report:
            return
        if self.filename is None:
            rank_zero_info(report)
            return
        with self._open_report() as file:
            file.write(report)

    def _open_report(self) -> TextIO:
        rank = "" if self._local_rank is None else f"-{self._local_rank}"
        path = Path(self.dirpath or ".") / f"{self._stage}-{self.filename}{rank}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")

    def teardown(self, stage: str | None = None) -> None:
        """A run is over, after :meth:`describe`."""


class PassThroughProfiler(Profiler):
    """Measures nothing: what a Trainer has where no profiler was asked for, so that the user's code can call one.

    The loops do not call it at all.
    """

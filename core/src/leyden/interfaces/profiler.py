"""Profiler: how long each part of a run takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leyden.utilities import rank_zero_info


class Profiler:
    """The base class of profilers, which measures nothing.

    An author *must* override :meth:`start`, :meth:`stop` and :meth:`summary`, and *may* override the rest.

    Args:
        dirpath: The directory of the report; by default the log directory of the run.
        filename: The name of the report's file, without ".txt"; None prints the report.
    """

    def __init__(self, dirpath: str | Path | None = None, filename: str | None = None) -> None:
        self.dirpath = dirpath
        self.filename = filename
        self._stage: str | None = None

    def start(self, action_name: str) -> None:
        """Begin to measure an action."""

    def stop(self, action_name: str) -> None:
        """Stop measuring the action."""

    def summary(self) -> str:
        """The report, as text; "" where there is nothing to report."""
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
        """Prepare for a run.

        Args:
            stage: "fit", "validate", "test" or "predict".
            local_rank: The number of this process on its node.
            log_dir: The log directory of the run.
        """
        self._stage = stage
        self._local_rank = local_rank
        self.dirpath = self.dirpath or log_dir

    def describe(self) -> None:
        """Print the report, or write it to ``dirpath/stage-filename[-rank].txt``."""
        report = self.summary()
        if not report:
            return
        if self.filename is None:
            return rank_zero_info(report)
        rank = "" if self._local_rank is None else f"-{self._local_rank}"
        path = Path(self.dirpath or ".") / f"{self._stage}-{self.filename}{rank}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(report)

    def teardown(self, stage: str | None = None) -> None:
        """Finish after a run; called after :meth:`describe`."""


class PassThroughProfiler(Profiler):
    """Measures nothing: the profiler of a Trainer that was given none.

    The user's code may call it; the loops don't, which saves the time of the calls.
    """

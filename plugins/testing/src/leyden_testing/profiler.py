"""Checks of a profiler: it measures and reports actions, and does not change a run."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest

from leyden import Component
from leyden.plugins import discover
from leyden.profilers import Profiler
from leyden.utilities.rank_zero import rank_zero_only
from leyden_testing.component import TrainerPartConformance
from leyden_testing.training import Model, reference_trainer, rows, same, weights


class ProfilerConformance(TrainerPartConformance):
    """The checks of a profiler.

    Example::

        class TestSampling(ProfilerConformance):
            @pytest.fixture
            def name(self):
                return "sampling"
    """

    kind = "profiler"
    interface = Profiler

    def test_what_is_measured_is_reported(self, part: Any) -> None:
        """The summary names all actions that were started and stopped, also nested and repeated ones."""
        part.setup("fit", 0, None)
        for _ in range(2):
            with part.profile("load data"), part.profile("read file"):
                sum(range(1000))
            part.start("an action of its own")
            part.stop("an action of its own")
        summary = part.summary()
        assert isinstance(summary, str)
        for action in ("load data", "read file", "an action of its own"):
            assert action in summary, f"the summary does not name {action!r}"
        part.teardown("fit")

    def test_a_block_that_raises_is_stopped(self, part: Any) -> None:
        """``profile`` raises the block's own error, and the action can begin again."""
        part.setup("fit", 0, None)
        for _ in range(2):
            with pytest.raises(ValueError, match="of the block"), part.profile("load data"):
                raise ValueError("of the block")
        part.teardown("fit")

    def test_its_report_is_printed_on_rank_0_alone(
        self, part: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Without a file name the report is written to Leyden's log, only on rank 0."""
        for rank, times in ((0, 1), (1, 0)):
            monkeypatch.setattr(rank_zero_only, "rank", rank)
            caplog.clear()
            part.setup("fit", rank, None)
            with part.profile("load data"):
                pass
            with caplog.at_level("INFO", logger="leyden"):
                part.describe()
            assert sum("load data" in message for message in caplog.messages) == times, f"on rank {rank}"
            part.teardown("fit")

    def test_its_report_goes_to_a_file(
        self, name: str, arguments: dict[str, Any], component: Component, tmp_path: Path
    ) -> None:
        """With a file name the report is written to ``stage-filename-rank.txt``, by default in the log directory."""
        if "filename" not in inspect.signature(component.load()).parameters:
            pytest.skip("it takes no file name")
        profiler = discover().build(self.kind, name, **{**arguments, "filename": "report"})
        for stage in ("fit", "test"):
            profiler.setup(stage, 0, str(tmp_path / "logs"))
            with profiler.profile("load data"):
                pass
            profiler.describe()
            profiler.teardown(stage)
            assert "load data" in (tmp_path / "logs" / f"{stage}-report-0.txt").read_text()

    def test_a_run_with_it_is_the_run_without(self, part: Any, tmp_path: Path) -> None:
        """The weights of a run with it equal those of a run without it, to the last bit."""
        model, other = Model(dropout=0.5), Model(dropout=0.5)
        found = []
        for trainer, trained in ((self.trainer(tmp_path, part), model), (reference_trainer(tmp_path), other)):
            self.seed()
            trainer.fit(trained, rows(), rows(8))
            found.append(weights(trained))
        assert same(found[0], found[1])

    def test_a_run_is_reported(self, part: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The reports of a fit and of a test are logged when the run ends, and name the model's step."""
        model = Model()
        for stage in ("fit", "test"):
            caplog.clear()
            trainer = self.trainer(tmp_path, part)
            with caplog.at_level("INFO", logger="leyden"):
                if stage == "fit":
                    trainer.fit(model, rows(), rows(8))
                else:
                    trainer.test(model, rows(8), verbose=False)
            step = "training_step" if stage == "fit" else "test_step"
            assert any(step in message for message in caplog.messages), f"the report of a {stage} has no {step}"

    def test_it_can_be_copied_to_other_processes(self, part: Any) -> None:
        """It can be pickled before it has measured anything, as strategies that start processes need."""
        assert type(pickle.loads(pickle.dumps(part))) is type(part)

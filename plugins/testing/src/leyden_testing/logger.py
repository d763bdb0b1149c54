"""Checks of a logger: logged values can be read after every kind of end of a run, and only rank 0 writes."""

from __future__ import annotations

import inspect
import os
import pickle
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden as pl
from leyden import Component
from leyden.loggers import Logger
from leyden.plugins import discover
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_only
from leyden_testing.component import TrainerPartConformance, check_sentence
from leyden_testing.training import FailingModel, Model, Recorder, Series, reference_trainer, rows


class Saved(pl.Callback):
    """A checkpoint callback with the attributes that loggers use after a checkpoint was saved.

    Args:
        path: The path of the checkpoint.
    """

    role = "checkpoint"

    def __init__(self, path: str) -> None:
        self.best_model_path = self.last_model_path = path
        self.best_model_score = torch.tensor(0.5)
        self.best_k_models = {path: self.best_model_score}
        self.monitor, self.mode, self.save_top_k, self.dirpath = "val_loss", "min", 1, str(Path(path).parent)


class LoggerConformance(TrainerPartConformance):
    """The checks of a logger.

    If the logger's output can be read back, override :meth:`read` and :meth:`read_hyperparams`; without them the
    checks do not compare what it wrote.

    Example::

        class TestTable(LoggerConformance):
            @pytest.fixture
            def name(self):
                return "table"

            @pytest.fixture
            def read(self):
                return lambda logger: read_table(logger.log_dir)
    """

    kind = "logger"
    interface = Logger

    @pytest.fixture
    def arguments(self, component: Component, tmp_path: Path) -> dict[str, Any]:
        """Keyword arguments of the logger's constructor; by default a directory, if it takes ``save_dir``."""
        return {"save_dir": str(tmp_path / "logs")} if "save_dir" in self._parameters(component) else {}

    @pytest.fixture
    def other_arguments(self, component: Component, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a second logger that writes elsewhere; by default with another version or name."""
        takes = [argument for argument in ("version", "name") if argument in self._parameters(component)]
        if not takes:
            pytest.skip("the fixture `other_arguments` has no arguments for a second logger")
        return {**arguments, takes[0]: "other"}

    @pytest.fixture
    def read(self) -> Callable[[Any], Series] | None:
        """A function that reads a logger's metrics: name to (step, value) pairs in order; None compares nothing."""
        return None

    @pytest.fixture
    def read_hyperparams(self) -> Callable[[Any], dict[str, Any]] | None:
        """A function that reads a logger's hyperparameters, nested or flat; None compares nothing."""
        return None

    def part_of(self, trainer: pl.Trainer) -> Any:
        """Return the Trainer's first logger."""
        return trainer.loggers[0]

    @staticmethod
    def _parameters(component: Component) -> Any:
        return inspect.signature(component.load()).parameters

    # -- names and directories ------------------------------------------------------------------------------

    def test_name_version_and_directories_stay(self, part: Any) -> None:
        """They have the interface's types, each directory is within the outer one, and logging changes none."""
        before = self._place(part)
        name, version, *directories = before
        assert isinstance(name, str | None)
        assert isinstance(version, int | str | None)
        assert not isinstance(version, bool)
        assert all(isinstance(directory, str | None) for directory in directories)
        save_dir, root_dir, log_dir = directories
        for inner, outer in ((log_dir, root_dir), (root_dir, save_dir)):
            if inner is not None and outer is not None:
                assert os.path.commonpath([inner, outer]) == os.path.normpath(outer), f"{inner} is not in {outer}"
        assert isinstance(part.group_separator, str)
        part.log_metrics({"loss": 1.0}, step=0)
        part.save()
        assert self._place(part) == before

    def test_the_trainer_logs_where_it_says(self, part: Any, tmp_path: Path) -> None:
        """``trainer.log_dir`` is the logger's ``log_dir``."""
        if part.log_dir is None:
            pytest.skip("it has no directory")
        trainer = self.trainer(tmp_path, part)
        assert trainer.log_dir == part.log_dir

    def test_it_can_be_copied_to_other_processes(self, part: Any) -> None:
        """It can be pickled before it has logged anything, as strategies that start processes need."""
        copied = pickle.loads(pickle.dumps(part))
        assert type(copied) is type(part)
        assert self._place(copied) == self._place(part)

    # -- logged values --------------------------------------------------------------------------------------

    def test_metrics_can_be_read(self, part: Any, read: Any) -> None:
        """After :meth:`save`, logged Python and PyTorch numbers can be read by name and step, in order."""
        self._log(part)
        part.save()
        if read is not None:
            found = self._read(read, part)
            assert found["loss"] == [(3, 1.5), (4, 2.5)]
            assert found["group/score"] == [(3, 2.0)]

    def test_metrics_may_lack_a_step_or_be_infinite(self, part: Any) -> None:
        """A metric may have no step, and may be infinite or NaN, as in a diverging run."""
        part.log_metrics({"loss": 1.0})
        part.log_metrics({"loss": float("nan"), "other": float("inf")}, step=7)
        part.save()

    def test_hyperparameters_can_be_read(self, part: Any, read_hyperparams: Any) -> None:
        """A nested mapping and, later, a Namespace can both be read back; the user's mapping is not changed."""
        params = {"lr": 0.5, "net": {"width": 8, "act": "relu"}, "none": None, "path": Path("data")}
        part.log_hyperparams(params)
        part.log_hyperparams(Namespace(seed=3))
        part.save()
        assert params == {"lr": 0.5, "net": {"width": 8, "act": "relu"}, "none": None, "path": Path("data")}
        if read_hyperparams is not None:
            found = dict(read_hyperparams(part))
            found.update({f"net/{name}": value for name, value in dict(found.get("net") or {}).items()})
            kept = {name: found.get(name) for name in ("lr", "net/width", "net/act", "seed")}
            assert kept == {"lr": 0.5, "net/width": 8, "net/act": "relu", "seed": 3}

    def test_it_accepts_a_model_without_an_example(self, part: Any) -> None:
        """``log_graph`` with a model that has no example input raises no error."""
        part.log_graph(Model())
        part.save()

    def test_it_accepts_a_saved_checkpoint(self, part: Any, read: Any, tmp_path: Path) -> None:
        """``after_save_checkpoint`` neither changes the checkpoint nor loses logged values."""
        path = tmp_path / "best.ckpt"
        path.write_bytes(b"a checkpoint")
        self._log(part)
        part.after_save_checkpoint(Saved(str(path)))
        part.finalize("success")
        assert path.read_bytes() == b"a checkpoint"
        if read is not None:
            assert self._read(read, part)["loss"] == [(3, 1.5), (4, 2.5)]

    @pytest.mark.parametrize("status", ["success", "failed", "finished"])
    def test_every_end_keeps_what_was_logged(self, status: str, part: Any, read: Any) -> None:
        """:meth:`finalize` keeps all values; it may be called before logging, twice, and before more logging."""
        part.finalize(status)
        self._log(part)
        part.finalize(status)
        part.finalize(status)
        if read is not None:
            assert self._read(read, part)["loss"] == [(3, 1.5), (4, 2.5)]
        part.log_metrics({"loss": 3.5}, step=5)
        part.finalize(status)
        if read is not None:
            assert self._read(read, part)["loss"] == [(3, 1.5), (4, 2.5), (5, 3.5)]

    def test_only_rank_0_writes(
        self, part: Any, arguments: dict[str, Any], read: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """On another rank every method may be called, but nothing is written."""
        before = self._files(tmp_path)
        monkeypatch.setattr(rank_zero_only, "rank", 1)
        self._log(part)
        part.log_hyperparams({"lr": 0.5})
        part.log_graph(Model())
        part.save()
        part.finalize("success")
        assert self._files(tmp_path) == before
        if read is not None and part.log_dir is None:
            assert not self._read(read, part)

    # -- runs -----------------------------------------------------------------------------------------------

    def test_a_run_is_logged_as_any_logger_would(self, part: Any, read: Any, tmp_path: Path) -> None:
        """It keeps the same values of a fit and a test as a second logger of the same Trainer."""
        recorder, model = Recorder(), Model()
        trainer = reference_trainer(tmp_path, logger=[part, recorder])
        trainer.fit(model, rows(), rows(8))
        trainer.test(model, rows(8), verbose=False)
        assert {"train_loss_step", "train_loss_epoch", "val_loss", "test_loss"} <= recorder.series.keys()
        if read is not None:
            found = self._read(read, part)
            for name, series in recorder.series.items():
                expected = [(step, pytest.approx(value, rel=1e-6)) for step, value in series]
                assert self._steps(found.get(name, []), name) == self._steps(expected, name), name

    def test_a_failed_run_keeps_what_was_logged(self, part: Any, read: Any, tmp_path: Path) -> None:
        """Values that were logged before the model raised an error can be read."""
        with pytest.raises(ValueError, match="the model's own error"):
            self.trainer(tmp_path, part).fit(FailingModel(), rows(), rows(8))
        if read is not None:
            assert [step for step, _ in self._read(read, part)["train_loss_step"]] == [0]

    def test_two_loggers_write_to_separate_places(
        self, part: Any, name: str, other_arguments: dict[str, Any], read: Any, tmp_path: Path
    ) -> None:
        """Two of these loggers in one Trainer each have all values, in their own directories."""
        other = discover().build(self.kind, name, **other_arguments)
        reference_trainer(tmp_path, logger=[part, other]).fit(Model(), rows(), rows(8))
        assert self._place(part) != self._place(other)
        if read is not None:
            found, also = self._read(read, part), self._read(read, other)
            assert found["train_loss_step"] == also["train_loss_step"]
            assert len(found["train_loss_step"]) == 8

    def test_two_loggers_in_one_place_are_refused(
        self, part: Any, name: str, arguments: dict[str, Any], tmp_path: Path
    ) -> None:
        """Two loggers that would write to one directory are refused with one sentence before anything is written."""
        if part.log_dir is None:
            pytest.skip("it has no directory")
        twin = discover().build(self.kind, name, **{**arguments, "version": part.version})
        with pytest.raises(MisconfigurationException) as raised:
            reference_trainer(tmp_path, logger=[part, twin]).fit(Model(), rows(), rows(8))
        check_sentence(raised.value, repr(part.log_dir))

    def test_the_next_run_has_its_own_place(self, part: Any, name: str, arguments: dict[str, Any], read: Any) -> None:
        """A logger that is made after a run, without a version, writes to another directory."""
        if part.log_dir is None:
            pytest.skip("it has no directory")
        self._log(part)
        part.finalize("success")
        later = discover().build(self.kind, name, **arguments)
        assert later.log_dir != part.log_dir
        later.log_metrics({"loss": 9.0}, step=0)
        later.finalize("success")
        if read is not None:
            assert self._read(read, part)["loss"] == [(3, 1.5), (4, 2.5)]

    def test_a_version_can_be_continued(
        self, part: Any, name: str, arguments: dict[str, Any], component: Component, read: Any
    ) -> None:
        """A logger with the version of an earlier one writes to the same directory, and its values can be read."""
        if "version" not in self._parameters(component):
            pytest.skip("it takes no version")
        self._log(part)
        part.finalize("success")
        with warnings.catch_warnings():  # it may warn that it replaces the earlier run's files
            warnings.simplefilter("ignore")
            again = discover().build(self.kind, name, **{**arguments, "version": part.version})
            again.log_metrics({"loss": 3.5}, step=5)
            again.finalize("success")
        assert self._place(again) == self._place(part)
        if read is not None:
            assert self._read(read, again)["loss"][-1] == (5, 3.5)

    # -- helpers --------------------------------------------------------------------------------------------

    @staticmethod
    def _log(logger: Any) -> None:
        logger.log_metrics({"loss": 1.5, "group/score": 2}, step=3)
        logger.log_metrics({"loss": torch.tensor(2.5)}, step=4)

    @staticmethod
    def _place(logger: Any) -> tuple[Any, ...]:
        return logger.name, logger.version, logger.save_dir, logger.root_dir, logger.log_dir

    @staticmethod
    def _files(root: Path) -> set[Path]:
        return {path for path in root.rglob("*") if path.is_file()}

    @staticmethod
    def _read(read: Callable[[Any], Series], logger: Any) -> Series:
        return {
            name: [(int(step), float(value)) for step, value in series] for name, series in read(logger).items()
        }  # fmt: skip

    @staticmethod
    def _steps(series: list[Any], name: str) -> list[Any]:
        """Return the series; for "epoch", which is logged with every metric, only its last entry."""
        return [series[-1]] if name == "epoch" and series else series

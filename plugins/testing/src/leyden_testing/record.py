"""Checks of a record: the logged values of a library's objects are right for steps, epochs, runs and processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import leyden as pl
from leyden import Component
from leyden.plugins import Record, discover
from leyden_testing.component import Conformance, check_sentence
from leyden_testing.ranks import on_ranks
from leyden_testing.training import Model, Recorder, SaveAmid, Series, rows

Make = Callable[[], Any]
Take = Callable[[Any, Any], Any]
BOTH = {"on_step": True, "on_epoch": True}
COUNTS = {"train": (10, 14), "val/dataloader_idx_0": (6, 10), "val/dataloader_idx_1": (11, 15)}
"""The numbers of rows in the two epochs, by the name under which the object is logged."""


class MetricModel(Model):
    """A model that logs an object of the library in every step; there is one object for each loader.

    The names are "train", "val" and "test".

    Args:
        make: Makes an object.
        take: Gives an object a batch.

    Attributes:
        options: Arguments of ``self.log``.
        fails: Whether the model raises an error in the second batch of training or validation.
        replacement: The value to log under the object's name in the second training batch; None logs the object.
    """

    def __init__(self, make: Make, take: Take) -> None:
        super().__init__()
        for place in ("train", "val_0", "val_1", "test_0"):
            setattr(self, f"of_{place}", make())
        self.take = take
        self.options: dict[str, Any] = dict(BOTH)
        self.fails = False
        self.replacement: Any = None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Log the object, and the loss."""
        self._log_object("train", "train", batch, batch_idx)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the object of the loader, and the loss."""
        self._log_object("val", f"val_{dataloader_idx}", batch, batch_idx)
        super().validation_step(batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the object, and the loss."""
        self._log_object("test", f"test_{dataloader_idx}", batch, batch_idx)
        super().test_step(batch, batch_idx, dataloader_idx)

    def _log_object(self, name: str, place: str, batch: Any, batch_idx: int) -> None:
        if self.fails and batch_idx == 1:
            raise ValueError("the model's own error")
        metric = getattr(self, f"of_{place}")
        self.take(metric, batch)
        is_replaced = self.replacement is not None and name == "train" and batch_idx == 1
        self.log(name, self.replacement if is_replaced else metric, **self.options)


class OtherRows(pl.LightningDataModule):
    """A data module with other and more rows in the second epoch; their numbers are in :data:`COUNTS`."""

    def train_dataloader(self) -> Any:
        """Return the training loader of the current epoch."""
        return rows(COUNTS["train"][self._epoch])

    def val_dataloader(self) -> Any:
        """Return the two validation loaders of the current epoch."""
        return [rows(COUNTS[f"val/dataloader_idx_{i}"][self._epoch]) for i in (0, 1)]

    @property
    def _epoch(self) -> int:
        assert self.trainer is not None
        return int(self.trainer.current_epoch)


def batches_of_rank(count: int, rank: int, size: int) -> DataLoader[Any]:
    """Return a loader with a process's share of the batches of ``count`` rows; the processes take turns."""
    batches: Any = list(rows(count))[rank::size]
    return DataLoader(batches, batch_size=None)


def evaluate_uneven(trainer: Callable[..., pl.Trainer], model: MetricModel, root: Path, counts: list[int]) -> Any:
    """Validate with loaders that give the processes different numbers of batches.

    Returns:
        The logged values, or the error's text if the run was refused.
    """
    runner = trainer(root, None, strategy="ddp", devices=2, use_distributed_sampler=False)
    loaders = [batches_of_rank(count, runner.global_rank, runner.world_size) for count in counts]
    try:
        return runner.validate(model, loaders, verbose=False)
    except Exception as error:
        return str(error)


class RecordConformance(Conformance):
    """The checks of a record; its name is that of the class whose objects it logs.

    The objects are attributes of the model, with separate objects for training and for each evaluation loader.
    A batch is a list of two tensors of random numbers, of shapes (rows, 4) and (rows, 2), with 2 to 4 rows. The logged
    value must equal that of a new object that was given the same batches.

    Example::

        class TestMean(RecordConformance):
            @pytest.fixture
            def name(self):
                return "averages.Mean"

            @pytest.fixture
            def make(self):
                return averages.Mean

            @pytest.fixture
            def take(self):
                return lambda mean, batch: mean.add(batch[0])

            @pytest.fixture
            def value(self):
                return lambda mean: mean.result()
    """

    kind = "record"
    interface = Record

    @pytest.fixture
    def make(self) -> Make:
        """A function that makes an object of the library."""
        pytest.fail(f"{type(self).__name__} must override the fixture `make` with a function that makes an object.")

    @pytest.fixture
    def take(self) -> Take:
        """A function that gives an object a batch, as a user's step does."""
        pytest.fail(f"{type(self).__name__} must override the fixture `take` with a function of an object and a batch.")

    @pytest.fixture
    def value(self) -> Callable[[Any], Any]:
        """A function that returns an object's number, computed from the batches it was given."""
        pytest.fail(f"{type(self).__name__} must override the fixture `value` with a function from object to number.")

    @pytest.fixture
    def tolerance(self) -> tuple[float, float]:
        """How far a logged value may be from the expected one, ``(rtol, atol)``; a resumed run must be exact."""
        return 1e-5, 1e-6

    @pytest.fixture
    def value_of(self, make: Make, take: Take, value: Callable[[Any], Any]) -> Callable[[Iterable[Any]], float]:
        """A function that returns the value of a new object that was given some batches."""

        def of(batches: Iterable[Any]) -> float:
            metric = make()
            for batch in batches:
                take(metric, batch)
            return float(value(metric))

        return of

    @pytest.fixture
    def same_values(self, tolerance: tuple[float, float]) -> Callable[[str, list[float], list[float]], None]:
        """A function that fails if the values of a name are not the expected ones."""

        def compare(name: str, found: list[float], expected: list[float]) -> None:
            rtol, atol = tolerance
            near = found == pytest.approx(expected, rel=rtol, abs=atol, nan_ok=True)
            assert near, f"{name} is {found}, not {expected}"

        return compare

    @pytest.fixture
    def build_part(self, make: Make, take: Take, available: None) -> Callable[[], MetricModel]:
        """A function that builds a model that logs the library's objects, since ``self.log`` makes the record."""
        return lambda: MetricModel(make, take)

    def model(self, part: Any) -> Model:
        """Return the model that logs the objects, in training mode and without failure."""
        part.fails = False
        return part.train()  # type: ignore[no-any-return]

    def failing_model(self, part: Any) -> Model:
        """Return the model, set to fail after the object was given a batch."""
        part.fails = True
        return part  # type: ignore[no-any-return]

    def warm_up(self, root: Path, part: MetricModel) -> None:
        """Run once with the library, so that changes by its first use do not count."""
        self.trainer(root, part).fit(self.model(part), rows(), rows(8))

    def logged(self, root: Path, model: MetricModel, ckpt_path: str | None = None, **options: Any) -> Recorder:
        """Fit two epochs with :class:`OtherRows` and return a logger with the logged values."""
        recorder = Recorder()
        trainer = self.trainer(root, model, logger=recorder, reload_dataloaders_every_n_epochs=1, **options)
        trainer.fit(model, datamodule=OtherRows(), ckpt_path=ckpt_path)
        return recorder

    # -- whose it is ----------------------------------------------------------------------------------------

    def test_its_name_is_that_of_the_class_that_it_logs(self, component: Component, make: Make) -> None:
        """By ``"package.module.Class"`` the record of an object is found, and that of one of a derived class."""
        cls = type(make())
        derived = type("Derived", (cls,), {})
        for one in (cls, derived):
            found = discover().component_for(self.kind, one)
            assert found == component.name, f"the record of {one.__module__}.{one.__qualname__} is {found!r}"

    def test_a_value_of_another_type_is_refused(self, build_part: Callable[[], MetricModel], tmp_path: Path) -> None:
        """A number or another object under an object's name is refused with one sentence that has the name."""
        for other in (1.0, object()):
            model = build_part()
            model.replacement = other
            with pytest.raises(Exception) as raised:  # noqa: PT011 - of what type is the record's own choice
                self.trainer(tmp_path, model).fit(model, rows(), rows(8))
            check_sentence(raised.value, "'train'")

    # -- values ---------------------------------------------------------------------------------------------

    def test_a_step_has_the_value_of_its_batch(
        self, part: MetricModel, value_of: Any, same_values: Any, tmp_path: Path
    ) -> None:
        """In training and validation the step's value, with ``_step`` in its name, is that of one batch."""
        series = self.logged(tmp_path, part).series
        for name, counts in COUNTS.items():
            expected = [value_of([batch]) for count in counts for batch in rows(count)]
            self._compare(series, self._suffixed(name, "step"), expected, same_values)

    def test_an_epoch_has_the_value_of_all_its_batches(
        self, part: MetricModel, value_of: Any, same_values: Any, tmp_path: Path
    ) -> None:
        """The epoch's value, with ``_epoch`` in its name, is that of all batches, and each loader has its own."""
        series = self.logged(tmp_path, part, max_epochs=1).series
        for name, counts in COUNTS.items():
            self._compare(series, self._suffixed(name, "epoch"), [value_of(rows(counts[0]))], same_values)

    def test_each_epoch_starts_anew(self, part: MetricModel, value_of: Any, same_values: Any, tmp_path: Path) -> None:
        """An epoch's value does not include batches of an earlier epoch or of the sanity check."""
        series = self.logged(tmp_path, part).series
        for name, counts in COUNTS.items():
            expected = [value_of(rows(count)) for count in counts]
            self._compare(series, self._suffixed(name, "epoch"), expected, same_values)

    def test_each_run_starts_anew(self, part: MetricModel, value_of: Any, same_values: Any, tmp_path: Path) -> None:
        """Every run gives the same values: with one Trainer, with another, and after a failed run."""
        part.options = {}
        trainer = self.trainer(tmp_path, part)
        with pytest.raises(ValueError, match="the model's own error"):
            trainer.validate(self.failing_model(part), rows(11), verbose=False)
        model, found = self.model(part), []
        for runner in (trainer, trainer, self.trainer(tmp_path, part)):
            [values] = runner.validate(model, rows(11), verbose=False)
            found.append(values["val"])
        same_values("val", found, [value_of(rows(11))] * 3)

    # -- checkpoints ----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("step", [5, 7], ids=["within an epoch", "after its last batch"])
    def test_a_resumed_run_logs_what_the_uninterrupted_one_does(
        self, step: int, build_part: Callable[[], MetricModel], tmp_path: Path
    ) -> None:
        """A resumed run logs the same values to the last bit, also for an epoch that began before the interruption."""
        saved = SaveAmid(tmp_path / "amid.ckpt", step)
        self.seed()
        whole = self.logged(tmp_path, build_part(), callbacks=[saved]).sent
        rest = self.logged(tmp_path, build_part(), saved.path).sent
        assert rest, "a resumed run logs nothing"
        for found, expected in zip(rest, whole[-len(rest) :], strict=True):
            assert found == expected, f"a resumed run logs {found}, not {expected}"

    def test_its_state_is_plain_data(self, component: Component, part: MetricModel, tmp_path: Path) -> None:
        """A checkpoint within an epoch has the record's whole state, since it is plain data."""
        saved = SaveAmid(tmp_path / "amid.ckpt", step=5)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            self.logged(tmp_path, part, callbacks=[saved])
        said = [str(warning.message) for warning in warned]
        assert not any("the checkpoint, since loading it" in text for text in said), said  # it is left out, or sealed
        [rank] = torch.load(saved.path, weights_only=True)["leyden"]["ranks"]
        kept = [record["key"][1] for record in rank["fit"]["results"] if record["kind"] == component.name]
        assert kept == ["train"], f"the checkpoint has records of {kept}"

    # -- processes ------------------------------------------------------------------------------------------

    def test_processes_have_the_value_of_all_batches(
        self, build_part: Callable[[], MetricModel], value_of: Any, same_values: Any, tmp_path: Path
    ) -> None:
        """Two processes with different numbers of batches both get the value of all batches.

        If one process has no batch, the run may be refused instead, with the reason from :meth:`Record.outline`.
        """
        if not discover().named("strategy", "ddp"):
            pytest.skip("the strategy ddp is not installed")
        for counts in ([11], [11, 3]):
            model = build_part()
            model.options = {"sync_dist": True}
            reports = on_ranks(2, evaluate_uneven, self.trainer, model, tmp_path, counts, seconds=60)
            if isinstance(reports[0], str) and 3 in counts:
                for report in reports:
                    assert "take fewer devices" in report, report
                continue
            for i, count in enumerate(counts):
                name = "val" if len(counts) == 1 else f"val/dataloader_idx_{i}"
                same_values(name, [report[i][name] for report in reports], [value_of(rows(count))] * 2)

    # -- helpers --------------------------------------------------------------------------------------------

    @staticmethod
    def _suffixed(name: str, of: str) -> str:
        """Return the name of a step's or an epoch's value, if both are logged."""
        plain, slash, loader = name.partition("/")
        return f"{plain}_{of}{slash}{loader}"

    @staticmethod
    def _compare(series: Series, name: str, expected: list[float], same_values: Any) -> None:
        assert name in series, f"{name} is not logged, but {', '.join(sorted(series))}"
        same_values(name, [value for _, value in series[name]], expected)

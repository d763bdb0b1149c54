"""Conformance of a record: an object of a library is logged as what it has taken, by step, epoch, run and process."""

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
from leyden_testing.component import Conformance, sentence
from leyden_testing.ranks import on_ranks
from leyden_testing.training import Model, Recorder, SaveAmid, Series, rows

Make = Callable[[], Any]
Take = Callable[[Any, Any], Any]
BOTH = {"on_step": True, "on_epoch": True}
COUNTS = {"train": (10, 14), "val/dataloader_idx_0": (6, 10), "val/dataloader_idx_1": (11, 15)}
"""Rows of the two epochs, by the name under which they are logged."""


class Measured(Model):
    """Logs an object of the library in every step, one for each loader, as "train", "val" and "test".

    Args:
        make: Makes an object.
        take: Has it take a batch.

    Attributes:
        options: Arguments of ``self.log``.
        fails: Whether it raises in the second batch of training or validation.
        instead: What is logged under the object's name in the second batch of training; None for the object.
    """

    def __init__(self, make: Make, take: Take) -> None:
        super().__init__()
        for place in ("train", "val_0", "val_1", "test_0"):
            setattr(self, f"of_{place}", make())
        self.take = take
        self.options: dict[str, Any] = dict(BOTH)
        self.fails = False
        self.instead: Any = None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Log the object, and the loss."""
        self._measure("train", "train", batch, batch_idx)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the object of the loader, and the loss."""
        self._measure("val", f"val_{dataloader_idx}", batch, batch_idx)
        super().validation_step(batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the object, and the loss."""
        self._measure("test", f"test_{dataloader_idx}", batch, batch_idx)
        super().test_step(batch, batch_idx, dataloader_idx)

    def _measure(self, name: str, place: str, batch: Any, batch_idx: int) -> None:
        if self.fails and batch_idx == 1:
            raise ValueError("the model's own error")
        measured = getattr(self, f"of_{place}")
        self.take(measured, batch)
        is_other = self.instead is not None and name == "train" and batch_idx == 1
        self.log(name, self.instead if is_other else measured, **self.options)


class OtherRows(pl.LightningDataModule):
    """Other rows, and more of them, in the second epoch: :data:`COUNTS`, of which two are for validation."""

    def train_dataloader(self) -> Any:
        """Those of the epoch."""
        return rows(COUNTS["train"][self._epoch])

    def val_dataloader(self) -> Any:
        """Those of the epoch."""
        return [rows(COUNTS[f"val/dataloader_idx_{i}"][self._epoch]) for i in (0, 1)]

    @property
    def _epoch(self) -> int:
        assert self.trainer is not None
        return int(self.trainer.current_epoch)


def divided(count: int, rank: int, size: int) -> DataLoader[Any]:
    """The batches of so many rows that fall to a process, if every process takes one in turn."""
    batches: Any = list(rows(count))[rank::size]
    return DataLoader(batches, batch_size=None)


def evaluate_divided(trainer: Callable[..., pl.Trainer], model: Measured, root: Path, counts: list[int]) -> Any:
    """What a process has of a validation whose loaders give the processes different numbers of batches.

    Returns:
        The logged values; of a run that was refused the error's text.
    """
    runner = trainer(root, None, strategy="ddp", devices=2, use_distributed_sampler=False)
    loaders = [divided(count, runner.global_rank, runner.world_size) for count in counts]
    try:
        return runner.validate(model, loaders, verbose=False)
    except Exception as error:
        return str(error)


class RecordConformance(Conformance):
    """The checks of a record; its name is that of the class that it logs, and an author says how that is used.

    The objects are attributes of the model, those of training and of each loader of evaluation being different ones.
    A batch is a list of two tensors of random numbers, of shapes (rows, 4) and (rows, 2), with 2 to 4 rows. What an
    object that is logged should be is the value of a new one that has taken the same batches.

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
        """A function of an object and a batch that has the object take the batch, as a user's step does."""
        pytest.fail(f"{type(self).__name__} must override the fixture `take` with a function of an object and a batch.")

    @pytest.fixture
    def value(self) -> Callable[[Any], Any]:
        """A function from an object to the number that it is after what it has taken."""
        pytest.fail(f"{type(self).__name__} must override the fixture `value` with a function from object to number.")

    @pytest.fixture
    def tolerance(self) -> tuple[float, float]:
        """How far a logged value may be from that of a new object, ``(rtol, atol)``; a resumed run's may not at all."""
        return 1e-5, 1e-6

    @pytest.fixture
    def value_of(self, make: Make, take: Take, value: Callable[[Any], Any]) -> Callable[[Iterable[Any]], float]:
        """A function from batches to the value of a new object that has taken them."""

        def of(batches: Iterable[Any]) -> float:
            measured = make()
            for batch in batches:
                take(measured, batch)
            return float(value(measured))

        return of

    @pytest.fixture
    def same_values(self, tolerance: tuple[float, float]) -> Callable[[str, list[float], list[float]], None]:
        """A function that fails where the values of a name are not those that are expected."""

        def compare(name: str, found: list[float], expected: list[float]) -> None:
            rtol, atol = tolerance
            near = found == pytest.approx(expected, rel=rtol, abs=atol, nan_ok=True)
            assert near, f"{name} is {found}, not {expected}"

        return compare

    @pytest.fixture
    def build_part(self, make: Make, take: Take, available: None) -> Callable[[], Measured]:
        """Builds a model that logs objects of the library: the record is made by ``self.log``."""
        return lambda: Measured(make, take)

    def model(self, part: Any) -> Model:
        """The model that logs the objects, as it is before a run."""
        part.fails = False
        return part.train()  # type: ignore[no-any-return]

    def failing_model(self, part: Any) -> Model:
        """It fails when the object has taken a batch."""
        part.fails = True
        return part  # type: ignore[no-any-return]

    def warm_up(self, root: Path, part: Measured) -> None:
        """Also have the library do what it does at first use."""
        self.trainer(root, part).fit(self.model(part), rows(), rows(8))

    def logged(self, root: Path, model: Measured, ckpt_path: str | None = None, **options: Any) -> Recorder:
        """What is logged of a fit of two epochs with :class:`OtherRows`."""
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

    def test_what_is_no_such_object_is_refused(self, build_part: Callable[[], Measured], tmp_path: Path) -> None:
        """A number, or what nobody logs, under the name of an object is refused with a sentence that has the name."""
        for other in (1.0, object()):
            model = build_part()
            model.instead = other
            with pytest.raises(Exception) as raised:  # noqa: PT011 - of what type is the record's own choice
                self.trainer(tmp_path, model).fit(model, rows(), rows(8))
            sentence(raised.value, "'train'")

    # -- values ---------------------------------------------------------------------------------------------

    def test_a_step_has_the_value_of_its_batch(
        self, part: Measured, value_of: Any, same_values: Any, tmp_path: Path
    ) -> None:
        """In training and validation the step's value, with ``_step`` in its name, is that of the batch alone."""
        series = self.logged(tmp_path, part).series
        for name, counts in COUNTS.items():
            expected = [value_of([batch]) for count in counts for batch in rows(count)]
            self._compare(series, self._suffixed(name, "step"), expected, same_values)

    def test_an_epoch_has_the_value_of_all_its_batches(
        self, part: Measured, value_of: Any, same_values: Any, tmp_path: Path
    ) -> None:
        """The epoch's value, with ``_epoch`` in its name, is that of all batches, and each loader has its own."""
        series = self.logged(tmp_path, part, max_epochs=1).series
        for name, counts in COUNTS.items():
            self._compare(series, self._suffixed(name, "epoch"), [value_of(rows(counts[0]))], same_values)

    def test_each_epoch_starts_anew(self, part: Measured, value_of: Any, same_values: Any, tmp_path: Path) -> None:
        """What an epoch, or the check of the validation before the first, has taken is not in the next."""
        series = self.logged(tmp_path, part).series
        for name, counts in COUNTS.items():
            expected = [value_of(rows(count)) for count in counts]
            self._compare(series, self._suffixed(name, "epoch"), expected, same_values)

    def test_each_run_starts_anew(self, part: Measured, value_of: Any, same_values: Any, tmp_path: Path) -> None:
        """Runs of one Trainer, and of the next, have the same values under the plain name; so after one that fails."""
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

    @pytest.mark.parametrize("step", [5, 7], ids=["amid an epoch", "after its last batch"])
    def test_a_resumed_run_logs_what_the_uninterrupted_one_does(
        self, step: int, build_part: Callable[[], Measured], tmp_path: Path
    ) -> None:
        """A resumed run has the same values to the last bit, what the object had taken of the epoch included."""
        saved = SaveAmid(tmp_path / "amid.ckpt", step)
        self.seed()
        whole = self.logged(tmp_path, build_part(), callbacks=[saved]).sent
        rest = self.logged(tmp_path, build_part(), saved.path).sent
        assert rest, "a resumed run logs nothing"
        for found, expected in zip(rest, whole[-len(rest) :], strict=True):
            assert found == expected, f"a resumed run logs {found}, not {expected}"

    def test_what_is_kept_is_plain_data(self, component: Component, part: Measured, tmp_path: Path) -> None:
        """A checkpoint amid an epoch has the record, and nothing of it is left out because loading it ran code."""
        saved = SaveAmid(tmp_path / "amid.ckpt", step=5)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            self.logged(tmp_path, part, callbacks=[saved])
        said = [str(warning.message) for warning in warned]
        assert not any("Left out of the checkpoint" in text for text in said), said
        [rank] = torch.load(saved.path, weights_only=True)["leyden"]["ranks"]
        kept = [record["key"][1] for record in rank["fit"]["results"] if record["kind"] == component.name]
        assert kept == ["train"], f"the checkpoint has records of {kept}"

    # -- processes ------------------------------------------------------------------------------------------

    def test_processes_have_the_value_of_all_batches(
        self, build_part: Callable[[], Measured], value_of: Any, same_values: Any, tmp_path: Path
    ) -> None:
        """Two processes of which one has fewer batches, or none, evaluate to the value of all, in both.

        Where one has none the run may be refused instead, with what :meth:`Record.outline` says.
        """
        if not discover().named("strategy", "ddp"):
            pytest.skip("no strategy of several processes, ddp, is installed")
        for counts in ([11], [11, 3]):
            model = build_part()
            model.options = {"sync_dist": True}
            reports = on_ranks(2, evaluate_divided, self.trainer, model, tmp_path, counts, seconds=60)
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
        """The name of a step's or an epoch's value where there are both."""
        plain, slash, loader = name.partition("/")
        return f"{plain}_{of}{slash}{loader}"

    @staticmethod
    def _compare(series: Series, name: str, expected: list[float], same_values: Any) -> None:
        assert name in series, f"{name} is not logged, but {', '.join(sorted(series))}"
        same_values(name, [value for _, value in series[name]], expected)

"""Checks of a strategy: collectives, the same training as in one process, and exchange of checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from leyden.strategies import Launcher, Strategy
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing import scenarios
from leyden_testing.component import TrainerPartConformance, check_sentence
from leyden_testing.ranks import on_ranks
from leyden_testing.training import Model, SaveAfterEpoch, reference_trainer, same, weights


class StrategyConformance(TrainerPartConformance):
    """The checks of a strategy, with processes on the CPU.

    The processes are forked and find each other by the environment variables of ``torch.distributed``; override
    :meth:`on_ranks` if the strategy needs others. A run whose results several checks need is made only once.

    Example::

        class TestRing(StrategyConformance):
            @pytest.fixture
            def name(self):
                return "ring"
    """

    kind = "strategy"
    interface = Strategy
    ran: ClassVar[dict[Any, Any]] = {}

    @pytest.fixture
    def processes(self) -> int:
        """The number of processes that the checks start; 1 for a strategy of one process."""
        return 2

    @pytest.fixture
    def tolerance(self, processes: int) -> Any:
        """How far weights may be from those of one process; the default allows sums in another order."""
        return (1e-5, 1e-6) if processes > 1 else {}

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        """Further arguments of the Trainers; none by default."""
        return {}

    @pytest.fixture
    def one_file(self, tmp_path: Path) -> Callable[[Path], Path]:
        """A function that makes one file of a checkpoint, for one process to load; by default it is one already."""
        return lambda path: path

    @pytest.fixture(autouse=True)
    def _number_of_processes(self, processes: int, options: dict[str, Any]) -> None:
        self.processes_wanted, self.trainer_options = processes, options

    @pytest.fixture
    def run(
        self, name: str, build_part: Callable[[], Any], processes: int, tmp_path_factory: pytest.TempPathFactory
    ) -> Callable[..., Any]:
        """A function that runs a scenario in all processes, once; returns its directory and the reports."""

        def on_all(scenario: Callable[..., Any], *more: Any) -> Any:
            key = (type(self), name, scenario.__name__, *map(str, more))
            if key not in self.ran:
                root = tmp_path_factory.mktemp(scenario.__name__)
                make = partial(self.make_trainer, build_part)
                self.ran[key] = root, self.on_ranks(processes, scenario, make, root, processes, *more)
            return self.ran[key]

        return on_all

    def on_ranks(self, count: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Run a function in ``count`` processes and return each one's result; with 1 it runs in this process."""
        return [function(*args)] if count == 1 else on_ranks(count, function, *args)

    def trainer_arguments(self, value: Any) -> dict[str, Any]:
        """Return the strategy and a device for each process."""
        return {"strategy": value, "devices": self.processes_wanted, **self.trainer_options}

    def make_trainer(self, build_part: Callable[[], Any], root: Path, strategy: Any = None, **options: Any) -> Any:
        """Make a Trainer with the given strategy, or else with a new one."""
        return self.trainer(root, strategy or build_part(), **options)

    def alone(self, root: Path, processes: int, ckpt_path: str | None = None, **options: Any) -> Any:
        """Fit with the same rows in one process, without the strategy; return the weights and the Trainer."""
        model = Model()
        trainer = reference_trainer(root, **{**self.trainer_options, **options})
        trainer.fit(model, *scenarios.data(processes, alone=True), ckpt_path=ckpt_path)
        return weights(model), trainer

    # -- its attributes ---------------------------------------------------------------------------------------

    def test_it_says_what_it_does(self, part: Any, tmp_path: Path) -> None:
        """``strategy_name``, ``launcher`` and, if it has it, ``uneven_inputs`` have valid values."""
        self.trainer(tmp_path, part)
        assert isinstance(type(part).strategy_name, str)
        assert type(part).strategy_name
        assert getattr(part, "uneven_inputs", "stop_together") in ("stop_together", "pad", "join")
        assert part.launcher is None or isinstance(part.launcher, Launcher)
        assert part.launcher is None or isinstance(part.launcher.takes_part, bool)

    def test_too_many_devices_are_refused(self, part: Any, processes: int, tmp_path: Path) -> None:
        """A strategy of one process refuses two devices with one sentence."""
        if processes > 1:
            pytest.skip("it takes several devices")
        with pytest.raises(MisconfigurationException) as raised:
            self.trainer(tmp_path, part, devices=2)
        check_sentence(raised.value, "2")

    # -- collectives ----------------------------------------------------------------------------------------

    def test_each_process_knows_which_it_is(self, run: Any, processes: int) -> None:
        """World size and ranks are right in every process, and ``is_global_zero`` is True only on rank 0."""
        _, reports = run(scenarios.train)
        assert [report["place"] for report in reports] == [(processes, rank, rank, 0) for rank in range(processes)]
        assert [report["is_global_zero"] for report in reports] == [rank == 0 for rank in range(processes)]

    def test_reduce(self, run: Any, processes: int) -> None:
        """Every process gets the mean, sum, minimum and maximum over all processes; the input is unchanged."""
        _, reports = run(scenarios.run_collectives)
        values = torch.stack([torch.tensor([rank + 1.0, 10.0 * rank]) for rank in range(processes)])
        expected = {"mean": values.mean(0), "sum": values.sum(0), "min": values.amin(0), "max": values.amax(0)}
        for rank, report in enumerate(reports):
            assert torch.equal(report["mine"], values[rank])
            for op, tensor in report["reduced"].items():
                assert torch.equal(tensor, expected[op]), f"reduce({op!r}) is {tensor}, not {expected[op]}"

    def test_gather(self, run: Any, processes: int) -> None:
        """Tensors are stacked in the order of ranks, and objects listed; one process returns its tensor."""
        _, reports = run(scenarios.run_collectives)
        values = torch.stack([torch.tensor([rank + 1.0, 10.0 * rank]) for rank in range(processes)])
        for report in reports:
            assert torch.equal(report["gathered"], values if processes > 1 else values[0])
            assert report["objects"] == [{"rank": rank} for rank in range(processes)]

    def test_decisions(self, run: Any, processes: int) -> None:
        """A decision with ``all=True`` needs every process, otherwise one; every process gets the same result."""
        _, reports = run(scenarios.run_collectives)
        for report in reports:
            assert report["all of all"] is True
            assert report["all of some"] is (processes == 1)
            assert report["any of some"] is True
            assert report["any of none"] is False

    def test_broadcast(self, run: Any, processes: int) -> None:
        """Every process gets the value of the chosen process."""
        _, reports = run(scenarios.run_collectives)
        for report in reports:
            assert report["broadcast"] == [f"of {rank}" for rank in range(processes)]

    def test_a_barrier_waits_for_all(self, run: Any, processes: int) -> None:
        """After the barrier, everything that any process did before it is visible."""
        _, reports = run(scenarios.run_collectives)
        for report in reports:
            assert report["here"] == [f"here-{rank}" for rank in range(processes)]

    # -- training -------------------------------------------------------------------------------------------

    def test_it_trains_to_the_weights_of_one_process(
        self, run: Any, processes: int, tolerance: Any, tmp_path: Path
    ) -> None:
        """With the same global batches all processes have one process's weights, and equal bits among themselves."""
        _, reports = run(scenarios.train)
        expected, trainer = self.alone(tmp_path, processes)
        for report in reports:
            assert report["steps"] == trainer.global_step
            assert same(report["weights"], reports[0]["weights"])
            assert same(report["weights"], expected, tolerance)

    def test_every_row_is_seen_once(self, run: Any, processes: int) -> None:
        """The data are divided according to ``sampler_arguments``, and every row is used once in each epoch."""
        _, reports = run(scenarios.train)
        samplers = [report["sampler"] for report in reports]
        if processes == 1:
            assert samplers == [None]
        else:
            assert {sampler["num_replicas"] for sampler in samplers} == {samplers[0]["num_replicas"]}
            assert {sampler["rank"] for sampler in samplers} == set(range(samplers[0]["num_replicas"]))
        seen = [value for report in self._one_of_each_group(reports) for value in report["seen"]]
        every_row = [value for batch in scenarios.data(processes)[0] for value in batch[0][:, 0].tolist()]
        assert sorted(seen) == sorted(every_row * 2)

    def test_accumulation_and_clipping_are_those_of_one_process(
        self, run: Any, processes: int, tolerance: Any, tmp_path: Path
    ) -> None:
        """Gradients are accumulated over two batches and clipped by their total norm, as in one process."""
        _, found = run(scenarios.train_accumulated)
        expected, _ = self.alone(tmp_path, processes, accumulate_grad_batches=2, gradient_clip_val=0.05)
        for state in found:
            assert same(state, expected, tolerance)

    def test_it_evaluates_and_predicts_as_one_process(
        self, run: Any, processes: int, tolerance: Any, tmp_path: Path
    ) -> None:
        """Every process logs the losses of all rows, and together the processes predict every row."""
        _, reports = run(scenarios.train)
        model = Model()
        trainer = reference_trainer(tmp_path, **self.trainer_options)
        train_rows, val_rows = scenarios.data(processes, alone=True)
        trainer.fit(model, train_rows, val_rows)
        val_loss = trainer.callback_metrics["val_loss"]
        [logged] = trainer.test(model, val_rows, verbose=False)
        predicted = torch.cat(trainer.predict(model, val_rows) or [])
        for report in reports:
            found = {"val_loss": report["val_loss"], "test_loss": report["test_loss"]}
            assert same(found, {"val_loss": val_loss, "test_loss": torch.tensor(logged["test_loss"])}, tolerance)
        parts = torch.cat([report["predicted"] for report in self._one_of_each_group(reports)])
        assert same({"predicted": self._sorted(parts)}, {"predicted": self._sorted(predicted)}, tolerance)

    def test_it_can_be_used_again(self, run: Any) -> None:
        """After a run the same strategy object trains another model to the same weights."""
        _, reports = run(scenarios.train)
        for report in reports:
            assert same(report["again"], report["weights"])

    def test_uneven_processes_end_together(self, run: Any, processes: int) -> None:
        """If one process has fewer batches, none waits forever, and all make the same number of steps."""
        _, steps = run(scenarios.train_unevenly)
        assert set(steps) == {steps[0]}
        assert steps[0] in (2, 2 * processes)

    # -- checkpoints ----------------------------------------------------------------------------------------

    def test_a_resumed_run_is_the_uninterrupted_one(self, run: Any) -> None:
        """A run resumed in the middle of an epoch ends with the same bits as the uninterrupted one."""
        root, reports = run(scenarios.train)
        _, found = run(scenarios.resume, [str(root / "amid.ckpt")])
        for [state] in found:
            assert same(state, reports[0]["weights"])

    def test_its_checkpoint_goes_on_alone(
        self, run: Any, processes: int, tolerance: Any, one_file: Callable[[Path], Path], tmp_path: Path
    ) -> None:
        """One process loads the weights from the checkpoint, as plain data, and finishes the run."""
        root, reports = run(scenarios.train)
        path = one_file(root / "epoch.ckpt")
        assert path.is_file(), f"{path} is not a file that one process could load"
        kept = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        assert same(kept, reports[0]["saved"])
        found, _ = self.alone(tmp_path, processes, str(path))
        assert same(found, reports[0]["weights"], tolerance)

    def test_a_checkpoint_of_one_process_goes_on_under_it(
        self, run: Any, processes: int, tolerance: Any, tmp_path: Path
    ) -> None:
        """A run that one process began is finished by all processes."""
        saved = SaveAfterEpoch(tmp_path / "alone.ckpt")
        expected, _ = self.alone(tmp_path, processes, callbacks=[saved])
        _, found = run(scenarios.resume, [saved.path])
        for [state] in found:
            assert same(state, expected, tolerance)

    # -- how runs begin and end -------------------------------------------------------------------------------

    def test_a_process_that_raises_ends_the_run(self, run: Any) -> None:
        """The error of one process ends the run in every process, and none keeps waiting."""
        _, endings = run(scenarios.fail)
        assert endings[-1] == "ValueError: the model's own error"
        for rank, ending in enumerate(endings):
            assert "the model's own error" in ending, f"rank {rank} ends with {ending or 'nothing'}"

    def test_a_process_that_is_asked_to_end_ends_all(self, run: Any) -> None:
        """If one process is asked to end, as by a cluster's signal, all end after the same step in the same way."""
        _, endings = run(scenarios.end_early)
        steps, _ = endings[0]
        assert steps < 8, "a process was asked to end, but the run continued"
        assert set(endings) == {endings[0]}

    def test_its_launcher_returns_the_results(self, part: Any, processes: int, tolerance: Any, tmp_path: Path) -> None:
        """If it starts processes for each run, this process has rank 0's model and metrics after the run."""
        trainer, model = self.trainer(tmp_path, part), Model()
        if trainer.strategy.launcher is None or trainer.strategy.launcher.takes_part:
            pytest.skip("it does not start processes for each run")
        trainer.fit(model, *scenarios.data(processes))
        expected, reference = self.alone(tmp_path / "alone", processes)
        assert same(weights(model), expected, tolerance)
        assert trainer.global_step == reference.global_step
        losses = {"val_loss": trainer.callback_metrics["val_loss"]}
        assert same(losses, {"val_loss": reference.callback_metrics["val_loss"]}, tolerance)

    def test_a_run_leaves_the_process_as_it_was(self, part: Any, build_part: Callable[[], Any], tmp_path: Path) -> None:
        """After a run every process has the same settings, and no new threads, processes or open files."""
        reference_trainer(tmp_path).fit(Model(), *scenarios.data(1))
        make = partial(self.make_trainer, build_part)
        left = self.on_ranks(self.processes_wanted, scenarios.trace, make, tmp_path, self.processes_wanted)
        assert left == [[]] * self.processes_wanted

    def test_a_failed_run_raises_and_leaves_the_process_as_it_was(self, part: Any, tmp_path: Path) -> None:
        """A strategy of one process is checked like other parts; see also test_a_process_that_raises_ends_the_run."""
        if self.processes_wanted > 1:
            pytest.skip("a failed run of several processes ends the processes")
        super().test_a_failed_run_raises_and_leaves_the_process_as_it_was(part, tmp_path)

    # -- helpers --------------------------------------------------------------------------------------------

    @staticmethod
    def _one_of_each_group(reports: list[Any]) -> list[Any]:
        """Return one report for each group of processes that see the same data."""
        groups = {(report["sampler"] or {"rank": 0})["rank"]: report for report in reversed(reports)}
        return list(groups.values())

    @staticmethod
    def _sorted(rows: torch.Tensor) -> torch.Tensor:
        """Return the rows sorted by their first number."""
        return rows[rows[:, 0].argsort()]

"""Checks of an environment: it tells every process of a run its ranks, and does not change the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

import leyden as pl
from leyden import Component
from leyden.plugins import Environment, discover
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.component import TrainerPartConformance, check_sentence

Variables = Callable[[int, int, int, int], dict[str, str]]


class EnvironmentConformance(TrainerPartConformance):
    """The checks of an environment; the fixture :meth:`variables` has the variables that its cluster sets.

    Example::

        class TestGrid(EnvironmentConformance):
            @pytest.fixture
            def name(self):
                return "grid"

            @pytest.fixture
            def variables(self):
                return lambda rank, local_rank, node, size: {"GRID_RANK": str(rank), ...}
    """

    kind = "environment"
    interface = Environment

    @pytest.fixture
    def variables(self) -> Variables:
        """A function that returns a process's variables, from rank, local rank, node rank and world size."""
        return lambda rank, local_rank, node_rank, world_size: {}

    @pytest.fixture
    def nodes(self) -> list[int]:
        """The number of processes on each node; by default two nodes with two processes each."""
        return [2, 2]

    @pytest.fixture(autouse=True)
    def _one_process(self, request: pytest.FixtureRequest, variables: Variables) -> Iterator[None]:
        """Outside of :meth:`within`, this process is the only process of a run."""
        before = os.environ.copy()
        with mock.patch.dict(os.environ, {**before, **variables(0, 0, 0, 1)}, clear=True):
            yield

    def trainer_arguments(self, value: Any) -> dict[str, Any]:
        """Return the part as an entry of ``plugins``."""
        return {"plugins": [value]}

    def part_of(self, trainer: pl.Trainer) -> Any:
        """Return the environment of the strategy."""
        return trainer.strategy.environment

    # -- ranks and addresses --------------------------------------------------------------------------------

    def test_it_is_detected_where_it_applies(self, component: Component, variables: Variables) -> None:
        """``detect`` returns True in its cluster and False elsewhere; with priority 0 it always returns False."""
        cls = component.load()
        with mock.patch.dict(os.environ, clear=True):
            before = dict(os.environ)
            assert cls.detect() is False
            assert dict(os.environ) == before
        with self.within(variables, 3, 1, 1, 4):
            assert cls.detect() is (component.options.get("priority", 1) > 0)

    def test_every_process_learns_its_ranks(
        self, name: str, arguments: dict[str, Any], available: None, variables: Variables, nodes: list[int]
    ) -> None:
        """Every process gets the cluster's rank, local rank, node rank and world size."""
        for place in self._places(nodes):
            with self.within(variables, *place):
                environment = self._connected(name, arguments, *place)
                found = (
                    environment.global_rank(), environment.local_rank(), environment.node_rank(),
                    environment.world_size(),
                )  # fmt: skip
                assert found == place, f"a process of (rank, local, node, size) {place} gets {found}"
                assert [type(number) for number in found] == [int] * 4

    def test_all_processes_connect_to_one_address(
        self, name: str, arguments: dict[str, Any], available: None, variables: Variables, nodes: list[int]
    ) -> None:
        """Address and port are the same in all processes, and in every call."""
        places = set()
        for place in self._places(nodes):
            with self.within(variables, *place):
                environment = self._connected(name, arguments, *place)
                address, port = environment.main_address, environment.main_port
                assert isinstance(address, str)
                assert address
                assert isinstance(port, int)
                assert 1 <= port <= 65535, f"{port} is not a port"
                assert (environment.main_address, environment.main_port) == (address, port)
                places.add((address, port))
        assert len(places) == 1, f"the processes would connect to different addresses: {sorted(places)}"

    def test_it_reads_the_variables_when_it_is_asked(
        self, name: str, arguments: dict[str, Any], available: None, variables: Variables
    ) -> None:
        """An instance that was made before the variables were set uses them."""
        with mock.patch.dict(os.environ, clear=True):
            environment = discover().build(self.kind, name, **arguments)
        with self.within(variables, 3, 1, 1, 4):
            self._tell(environment, 3, 4)
            assert (environment.global_rank(), environment.world_size()) == (3, 4)

    def test_the_creator_of_the_processes_decides_their_ranks(
        self, part: Any, name: str, arguments: dict[str, Any], variables: Variables
    ) -> None:
        """Ranks that the strategy sets are used if the strategy creates the processes, but not if a cluster does."""
        assert isinstance(part.creates_processes_externally, bool)
        with self.within(variables, 1, 1, 0, 4):
            environment = discover().build(self.kind, name, **arguments)
            self._tell(environment, 1, 4)
            assert (environment.global_rank(), environment.world_size()) == (1, 4)
            self._tell(environment, 0, 2)
            taken = environment.global_rank(), environment.world_size()
            allowed = [(0, 2)] + [(1, 4)] * environment.creates_processes_externally
            assert taken in allowed, f"after rank 0 of 2 was set, it returns {taken}"

    # -- devices and nodes of the Trainer -------------------------------------------------------------------

    def test_wrong_numbers_of_processes_are_refused(
        self, name: str, arguments: dict[str, Any], available: None, variables: Variables, nodes: list[int]
    ) -> None:
        """The right ``devices`` and ``num_nodes`` are accepted; others are refused with one sentence."""
        per_node, number = nodes[0], len(nodes)
        for place in self._places(nodes):
            with self.within(variables, *place):
                self._connected(name, arguments, *place).validate_settings(per_node, number)
        place = self._places(nodes)[-1]
        with self.within(variables, *place):
            environment = self._connected(name, arguments, *place)
            if not environment.creates_processes_externally:
                return
            for devices, num_nodes in ((per_node + 3, number), (per_node, number + 3)):
                with pytest.raises(MisconfigurationException) as raised:
                    environment.validate_settings(devices, num_nodes)
                check_sentence(raised.value, str(devices if devices != per_node else num_nodes))

    def test_a_missing_variable_is_a_sentence(
        self, name: str, arguments: dict[str, Any], available: None, variables: Variables
    ) -> None:
        """Outside of its cluster each method returns an int, or one sentence says which variable is missing."""
        with mock.patch.dict(os.environ, clear=True):
            environment = discover().build(self.kind, name, **arguments)
            for question in ("world_size", "global_rank", "local_rank", "node_rank"):
                try:
                    assert isinstance(getattr(environment, question)(), int)
                except MisconfigurationException as error:
                    check_sentence(error)

    # -- the job --------------------------------------------------------------------------------------------

    def test_it_says_by_what_signal_a_job_ends(self, part: Any) -> None:
        """``requeue_signal`` is a signal of this system, or None."""
        assert part.requeue_signal is None or isinstance(part.requeue_signal, signal.Signals)

    def test_teardown_restores_the_variables(
        self, name: str, arguments: dict[str, Any], available: None, variables: Variables
    ) -> None:
        """After ``teardown``, which may be called twice, the environment variables are the same as before."""
        with self.within(variables, 0, 0, 0, 4):
            before = dict(os.environ)
            environment = self._connected(name, arguments, 0, 0, 0, 4)
            assert environment.main_address
            assert environment.main_port
            environment.teardown()
            environment.teardown()
            assert dict(os.environ) == before

    # -- helpers --------------------------------------------------------------------------------------------

    @contextmanager
    def within(
        self, variables: Variables, rank: int, local_rank: int, node_rank: int, world_size: int
    ) -> Iterator[None]:
        """Run the block with exactly the environment variables of a process with these ranks in the cluster."""
        with mock.patch.dict(os.environ, variables(rank, local_rank, node_rank, world_size), clear=True):
            yield

    @staticmethod
    def _places(nodes: list[int]) -> list[tuple[int, int, int, int]]:
        """Return rank, local rank, node rank and world size of every process."""
        local = [(local_rank, node) for node, count in enumerate(nodes) for local_rank in range(count)]
        return [(rank, *place, sum(nodes)) for rank, place in enumerate(local)]

    def _connected(self, name: str, arguments: dict[str, Any], rank: int, *place: int) -> Any:
        """Return an environment that was given rank and world size, as a strategy does."""
        environment = discover().build(self.kind, name, **arguments)
        self._tell(environment, rank, place[-1])
        return environment

    @staticmethod
    def _tell(environment: Any, rank: int, world_size: int) -> None:
        environment.set_world_size(world_size)
        environment.set_global_rank(rank)

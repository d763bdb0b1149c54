"""What only MPI has: processes that ask each other by mpi4py; its variables are in test_environments.py."""

import os
import sys
from types import SimpleNamespace
from unittest import mock

import pytest

from leyden.plugins import MPIEnvironment
from leyden.utilities import MisconfigurationException

MPICH = {"PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}


def variables(values=(), **more):
    """A block in which the process's environment has these variables only."""
    return mock.patch.dict(os.environ, {**dict(values), **more}, clear=True)


@pytest.fixture
def no_mpi4py(monkeypatch):
    """MPI by the launcher's variables, whatever is installed."""
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)


@pytest.mark.usefixtures("no_mpi4py")
def test_mpi_does_not_guess_the_node_where_ranks_go_round():
    around = {**MPICH, "PMI_RANK": "1", "MPI_LOCALRANKID": "0"}
    with variables(around), pytest.raises(MisconfigurationException, match=r"Rank 1 is number 0 of 2 .*mpi4py, or map"):
        MPIEnvironment().node_rank()


@pytest.mark.usefixtures("no_mpi4py")
def test_mpi_by_hand_without_mpi_says_what_it_needs():
    with variables(), pytest.raises(MisconfigurationException, match="neither mpi4py nor the variables of an mpirun"):
        MPIEnvironment().world_size()


class Communicator:
    """MPI_COMM_WORLD of several processes, seen by one of them."""

    def __init__(self, hosts, rank):
        self.hosts, self.rank, self.asked = hosts, rank, 0

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return len(self.hosts)

    def allgather(self, answer):
        self.asked += 1
        assert (answer[1] is None) == (self.rank > 0), "only rank 0 looks for a port"
        return [(host, 4321 if rank == 0 else None) for rank, host in enumerate(self.hosts)]


@pytest.mark.parametrize(
    ("hosts", "places"),
    [
        (["b", "b", "a", "a"], [(0, 0, 2), (0, 1, 2), (1, 0, 2), (1, 1, 2)]),  # rank 0 is on node 0, whatever its name
        (["a", "b", "a", "b"], [(0, 0, 2), (1, 0, 2), (0, 1, 2), (1, 1, 2)]),
        (["a", "b", "b"], [(0, 0, 1), (1, 0, 2), (1, 1, 2)]),
    ],
)
def test_with_mpi4py_the_processes_ask_each_other_once(monkeypatch, hosts, places):
    for rank, (node, local, of_node) in enumerate(places):
        world = Communicator(hosts, rank)
        monkeypatch.setitem(sys.modules, "mpi4py.MPI", SimpleNamespace(COMM_WORLD=world))
        with variables():
            environment = MPIEnvironment()
            assert (environment.world_size(), environment.global_rank()) == (len(hosts), rank)
            assert (environment.node_rank(), environment.local_rank()) == (node, local)
            assert (environment.main_address, environment.main_port) == (hosts[0], 4321)
            assert environment.processes_of_node() == of_node
            assert world.asked == 1
        with variables(MASTER_ADDR="c", MASTER_PORT="7"):
            assert (environment.main_address, environment.main_port) == ("c", 7)


def test_an_mpi4py_of_another_mpi_is_noticed(monkeypatch):
    alone = SimpleNamespace(COMM_WORLD=Communicator(["a"], 0))
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", alone)
    words = r"mpirun has started 4 processes \(PMI_SIZE\), but mpi4py sees 1"
    with variables(MPICH), pytest.raises(MisconfigurationException, match=words) as caught:
        MPIEnvironment().global_rank()
    assert str(caught.value).endswith("uninstall mpi4py.")


def test_an_mpi4py_without_an_mpi_library_counts_as_none(monkeypatch, tmp_path):
    package = tmp_path / "mpi4py"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "MPI.py").write_text("raise RuntimeError('cannot load MPI library')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mpi4py", "mpi4py.MPI"):
        monkeypatch.setitem(sys.modules, name, None)  # what is there now comes back at the end
        del sys.modules[name]
    with variables(MPICH):
        assert MPIEnvironment().global_rank() == 3
    assert "mpi4py" in sys.modules

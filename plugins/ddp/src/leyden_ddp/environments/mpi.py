"""Processes started by ``mpirun`` or ``mpiexec``."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, ClassVar

from leyden.utilities.exceptions import MisconfigurationException
from leyden_ddp.environments import variables
from leyden_ddp.environments.launched import LaunchedEnvironment

# The variables for world size, rank, local rank and processes of the node: of Open MPI, and of MPICH and Intel MPI.
# OMPI_COMM_WORLD_NODE_RANK is not the rank of the node: it is the local rank again.
_VARIABLES = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)


@dataclass(frozen=True)
class _Place:
    """Which process this is; the address and the port of rank 0 are None if they are not known."""

    size: int
    rank: int
    local_rank: int
    local_size: int
    node_rank: int
    address: str | None = None
    port: int | None = None


class MPIEnvironment(LaunchedEnvironment):
    """Processes started by ``mpirun`` of Open MPI, MPICH, Intel MPI, or another MPI that ``mpi4py`` was built for.

    With ``mpi4py`` installed, the processes exchange their hosts when a property is first read, which all processes
    must do. Without it, the ranks come from the launcher's variables, and ``MASTER_ADDR`` and ``MASTER_PORT`` must be
    set. If these two are set, they are used with ``mpi4py`` too.
    """

    launcher: ClassVar[str] = "mpirun"

    @staticmethod
    def detect() -> bool:
        """Whether the variables of an ``mpirun`` of more than one process are set.

        MPI itself isn't asked: to start it in a process that ``mpirun`` has not started takes time, and on login nodes
        of some clusters it ends the process.
        """
        return any(os.environ.get(names[0], "").isdigit() and int(os.environ[names[0]]) > 1 for names in _VARIABLES)

    @cached_property
    def _place(self) -> _Place:
        communicator = _communicator()
        return _place_by_variables() if communicator is None else _place_by_mpi(communicator)

    @property
    def main_address(self) -> str:
        """``MASTER_ADDR``, or the name of the host of rank 0."""
        if "MASTER_ADDR" in os.environ or self._place.address is None:
            return variables.text("MASTER_ADDR", "without mpi4py the user")
        return self._place.address

    @property
    def main_port(self) -> int:
        """``MASTER_PORT``, or a free port of the host of rank 0."""
        if "MASTER_PORT" in os.environ or self._place.port is None:
            return variables.port("MASTER_PORT", "without mpi4py the user")
        return self._place.port

    def world_size(self) -> int:
        """The size of ``MPI_COMM_WORLD``."""
        return self._place.size

    def global_rank(self) -> int:
        """The rank in ``MPI_COMM_WORLD``."""
        return self._place.rank

    def local_rank(self) -> int:
        """The number of processes of lower rank on this host."""
        return self._place.local_rank

    def node_rank(self) -> int:
        """The number of this host; hosts are counted in the order of their lowest ranks."""
        return self._place.node_rank

    def processes_of_node(self) -> int | None:
        """The number of processes on this host."""
        return self._place.local_size


def _communicator() -> Any:
    """``MPI_COMM_WORLD``, or None where there is no usable mpi4py."""
    try:
        return import_module("mpi4py.MPI").COMM_WORLD
    except (ImportError, RuntimeError):  # RuntimeError: it is installed but finds no MPI library
        return None


def _place_by_mpi(communicator: Any) -> _Place:
    """Exchange the hosts of all processes, and a free port of rank 0."""
    rank, size = communicator.Get_rank(), communicator.Get_size()
    for variable, *_ in _VARIABLES:
        told = variables.integer(variable, "mpirun", default=size)
        if told != size:
            raise MisconfigurationException(
                f"mpirun has started {told} processes ({variable}), but mpi4py sees {size}, as it uses another MPI; "
                f"start the script by the mpirun of that MPI, or uninstall mpi4py."
            )
    answers = communicator.allgather((socket.gethostname(), variables.free_port() if rank == 0 else None))
    hosts = [host for host, _ in answers]
    here = hosts[rank]
    return _Place(
        size=size,
        rank=rank,
        local_rank=hosts[:rank].count(here),
        local_size=hosts.count(here),
        node_rank=list(dict.fromkeys(hosts)).index(here),
        address=hosts[0],
        port=answers[0][1],
    )


def _place_by_variables() -> _Place:
    """Read the launcher's variables; the rank of the node is computed, because there is no variable for it."""
    known = [names for names in _VARIABLES if names[0] in os.environ]
    if not known:
        raise MisconfigurationException(
            "MPIEnvironment finds neither mpi4py nor the variables of an mpirun (OMPI_COMM_WORLD_SIZE or PMI_SIZE); "
            "start the script by mpirun, and install mpi4py if it is another than Open MPI's, MPICH's or Intel's."
        )
    size, rank, local_rank, local_size = (variables.integer(name, "mpirun") for name in known[0])
    if local_size == 0 or rank % local_size != local_rank:
        raise MisconfigurationException(
            f"Rank {rank} is number {local_rank} of {local_size} on its node, so ranks don't fill one node after the "
            f"other, and no variable of mpirun says which node this is; install mpi4py, or map by slot."
        )
    return _Place(size, rank, local_rank, local_size, node_rank=rank // local_size)

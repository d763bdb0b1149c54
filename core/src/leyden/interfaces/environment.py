"""Environment: who this process is in the cluster."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod


class Environment(ABC):
    """Who started this process, which of the run's processes it is, and where they meet.

    An author *must* write everything abstract and *may* override the rest. The class is asked whether it applies
    before any instance exists; an instance is made in every process and reads what the cluster says, its
    environment variables say, when it is asked.
    """

    @staticmethod
    @abstractmethod
    def detect() -> bool:
        """Whether this process was started by this cluster or launcher; asked of every installed environment."""

    @property
    @abstractmethod
    def creates_processes_externally(self) -> bool:
        """Whether all processes are there already; else the strategy's launcher makes those of this node."""

    @property
    @abstractmethod
    def main_address(self) -> str:
        """The host of rank 0, where the processes meet."""

    @property
    @abstractmethod
    def main_port(self) -> int:
        """A free port of that host, the same in all processes."""

    @abstractmethod
    def world_size(self) -> int:
        """Processes in all."""

    @abstractmethod
    def set_world_size(self, size: int) -> None:
        """Take the world size from the strategy; an environment whose processes were made by a cluster knows it."""

    @abstractmethod
    def global_rank(self) -> int:
        """This process among all, from 0."""

    @abstractmethod
    def set_global_rank(self, rank: int) -> None:
        """Take the rank from the strategy; an environment whose processes were made by a cluster knows it."""

    @abstractmethod
    def local_rank(self) -> int:
        """This process among those of its node, from 0."""

    @abstractmethod
    def node_rank(self) -> int:
        """This node among all, from 0."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Refuse a Trainer whose ``devices`` and ``num_nodes`` are not what the cluster has started.

        Raises:
            MisconfigurationException: With both numbers and what to write.
        """

    @property
    def requeue_signal(self) -> signal.Signals | None:
        """The signal that says that the job ends soon and may be run again, or None where there is none."""
        return None

    def requeue(self) -> None:
        """Ask the cluster to run the job again; called on rank 0 after the run was saved."""

    def teardown(self) -> None:
        """Take back what was set in the process's environment; at the end of a run."""

"""Environment: which process of the cluster this one is."""

import signal
from abc import ABC, abstractmethod


class Environment(ABC):
    """Tells who started this process, which of the run's processes it is, and where the processes meet.

    An author *must* write everything abstract and *may* override the rest. :meth:`detect` is called on the class,
    before there is an instance. Every process then makes an instance of its own, which reads the cluster's environment
    variables at each question.
    """

    @staticmethod
    @abstractmethod
    def detect() -> bool:
        """Whether this cluster or launcher has started this process; called on every installed environment."""

    @property
    @abstractmethod
    def creates_processes_externally(self) -> bool:
        """Whether the cluster has started all processes; if not, the strategy's launcher starts those of this node."""

    @property
    @abstractmethod
    def main_address(self) -> str:
        """The name or address of the host of rank 0, where the processes meet."""

    @property
    @abstractmethod
    def main_port(self) -> int:
        """A free port of that host; all processes return the same one."""

    @abstractmethod
    def world_size(self) -> int:
        """The number of processes on all nodes."""

    @abstractmethod
    def set_world_size(self, size: int) -> None:
        """Take the world size from the strategy; nothing to do where the cluster has set it."""

    @abstractmethod
    def global_rank(self) -> int:
        """The number of this process among all, from 0."""

    @abstractmethod
    def set_global_rank(self, rank: int) -> None:
        """Take the rank from the strategy; nothing to do where the cluster has set it."""

    @abstractmethod
    def local_rank(self) -> int:
        """The number of this process among those of its node, from 0."""

    @abstractmethod
    def node_rank(self) -> int:
        """The number of this node among all nodes, from 0."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Refuse ``devices`` and ``num_nodes`` of a Trainer that don't fit the processes that the cluster has started.

        Args:
            num_devices: Processes of each node.
            num_nodes: Nodes.

        Raises:
            MisconfigurationException: They don't fit; the message has both numbers and says what to write.
        """

    @property
    def requeue_signal(self) -> signal.Signals | None:
        """The signal by which the cluster announces that the job ends soon and may run again; None without one."""
        return None

    def requeue(self) -> None:
        """Ask the cluster to run the job again; called on rank 0 after the run has been saved."""

    def teardown(self) -> None:
        """Remove the environment variables that this object has set; called at the end of a run."""

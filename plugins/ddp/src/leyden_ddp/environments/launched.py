"""The base of all environments in which a cluster or launcher has started the processes."""

from __future__ import annotations

from typing import ClassVar

from leyden.plugins import Environment
from leyden.utilities.exceptions import MisconfigurationException
from leyden_ddp.environments import variables


class LaunchedEnvironment(Environment):
    """An environment in which a cluster or launcher has started all processes and told each its rank.

    Attributes:
        launcher: What starts the processes and sets their variables, as error messages call it.
    """

    launcher: ClassVar[str]

    @property
    def creates_processes_externally(self) -> bool:
        """True: all processes have been started."""
        return True

    @property
    def main_address(self) -> str:
        """``MASTER_ADDR``."""
        return variables.text("MASTER_ADDR", self.launcher)

    @property
    def main_port(self) -> int:
        """``MASTER_PORT``."""
        return variables.port("MASTER_PORT", self.launcher)

    def set_world_size(self, size: int) -> None:
        """Do nothing: the launcher has decided."""

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: the launcher has decided."""

    def processes_of_node(self) -> int | None:
        """The number of processes that the launcher has started on this node; None if it doesn't say."""
        return None

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Refuse ``devices`` and ``num_nodes`` that don't fit the processes that were started.

        Raises:
            MisconfigurationException: ``devices`` times ``num_nodes`` isn't the world size, or ``devices`` isn't the
                number of processes of this node.
        """
        started, here, wanted = self.world_size(), self.processes_of_node(), num_devices * num_nodes
        if started != wanted or here not in (None, num_devices):
            of_node = "" if here is None else f", {here} of them on this node"
            raise MisconfigurationException(
                f"devices={num_devices} and num_nodes={num_nodes} make {wanted} processes, {num_devices} on each node, "
                f"but {self.launcher} has started {started}{of_node}; give both the same numbers."
            )

"""What all environments have in common whose processes were made by somebody else."""

from __future__ import annotations

from typing import ClassVar

from leyden.interfaces.environment import Environment
from leyden.utilities.exceptions import MisconfigurationException
from leyden_ddp.environments import variables


class LaunchedEnvironment(Environment):
    """An environment in which all processes are there already, each told its rank by what started it."""

    launcher: ClassVar[str]  # who starts the processes and sets their variables, as it is called in a sentence

    @property
    def creates_processes_externally(self) -> bool:
        """True: no process is left to make."""
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
        """Nothing: the launcher decided."""

    def set_global_rank(self, rank: int) -> None:
        """Nothing: the launcher decided."""

    def processes_of_node(self) -> int | None:
        """How many processes the launcher has started on this node; None where it doesn't say."""
        return None

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Refuse a Trainer whose processes are not those that were started.

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

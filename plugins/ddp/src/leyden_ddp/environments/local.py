"""No cluster: processes that Leyden makes itself, or that were started by hand with variables."""

from __future__ import annotations

import os

from leyden.interfaces.environment import Environment
from leyden.utilities.exceptions import MisconfigurationException
from leyden_ddp.environments import variables

_SETTER = "whoever starts the processes by hand"


class LocalEnvironment(Environment):
    """The environment where no cluster or launcher is found, on one node or on several.

    On one node nothing needs to be set: the strategy's launcher makes the other processes. On several, start the
    script once on each with ``MASTER_ADDR`` and ``MASTER_PORT`` (a host name or address of the node of rank 0, and a
    port that is free there) and ``NODE_RANK``. Whoever starts every single process, not one for each node, sets
    ``LOCAL_RANK`` too; then none is made.
    """

    def __init__(self) -> None:
        self._world_size = 1
        self._global_rank = 0
        self._chose_port = False

    @staticmethod
    def detect() -> bool:
        """False: it is what is left where no other environment applies."""
        return False

    @property
    def creates_processes_externally(self) -> bool:
        """Whether ``LOCAL_RANK`` is set."""
        return "LOCAL_RANK" in os.environ

    @property
    def main_address(self) -> str:
        """``MASTER_ADDR``, by default this host."""
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        """``MASTER_PORT``; by default a free port, which is put there for the processes that this one makes."""
        if "MASTER_PORT" not in os.environ:
            os.environ["MASTER_PORT"] = str(variables.free_port())
            self._chose_port = True
        return variables.port("MASTER_PORT", _SETTER)

    def world_size(self) -> int:
        """What the strategy has said; 1 before."""
        return self._world_size

    def set_world_size(self, size: int) -> None:
        """Take the world size from the strategy."""
        self._world_size = size

    def global_rank(self) -> int:
        """What the strategy has said; 0 before."""
        return self._global_rank

    def set_global_rank(self, rank: int) -> None:
        """Take the rank from the strategy."""
        self._global_rank = rank

    def local_rank(self) -> int:
        """``LOCAL_RANK``, by default 0."""
        return variables.integer("LOCAL_RANK", _SETTER, default=0)

    def node_rank(self) -> int:
        """``NODE_RANK``, else ``GROUP_RANK``, by default 0."""
        name = "NODE_RANK" if "NODE_RANK" in os.environ else "GROUP_RANK"
        return variables.integer(name, _SETTER, default=0)

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Refuse variables that don't fit the Trainer's ``devices`` and ``num_nodes``.

        Raises:
            MisconfigurationException: A rank is too high, ``WORLD_SIZE`` is another number, or a variable is missing
                without which the processes would wait for each other at different places.
        """
        for name, rank, argument, number in (
            ("LOCAL_RANK", self.local_rank(), "devices", num_devices),
            ("NODE_RANK", self.node_rank(), "num_nodes", num_nodes),
        ):
            if rank >= number:
                raise MisconfigurationException(
                    f"The environment variable {name} is {rank}, but {argument}={number} has ranks 0 to {number - 1} "
                    f"only; write {argument}={rank + 1} or more, or start fewer."
                )
        wanted = num_devices * num_nodes
        if self.creates_processes_externally and variables.integer("WORLD_SIZE", _SETTER, wanted) != wanted:
            raise MisconfigurationException(
                f"devices={num_devices} and num_nodes={num_nodes} make {wanted} processes, but the environment "
                f"variable WORLD_SIZE is {os.environ['WORLD_SIZE']}; give both the same number."
            )
        if missing := self._missing(num_devices, num_nodes):
            raise MisconfigurationException(
                f"devices={num_devices} and num_nodes={num_nodes} make {wanted} processes, but the environment lacks "
                f"{' and '.join(missing)}, without which they don't find each other; set MASTER_ADDR, MASTER_PORT and "
                f"NODE_RANK on every node, or start the script by torchrun, srun or mpirun."
            )

    def _missing(self, num_devices: int, num_nodes: int) -> list[str]:
        """The variables that have no default that all processes would share."""
        needed = []
        if num_nodes > 1:
            needed = ["MASTER_PORT"]
            needed += ["NODE_RANK"] if "GROUP_RANK" not in os.environ else []
            needed += ["MASTER_ADDR"] if self.node_rank() > 0 else []
        elif num_devices > 1 and self.creates_processes_externally:
            needed = ["MASTER_PORT"]
        return [name for name in needed if name not in os.environ]

    def teardown(self) -> None:
        """Take the port away that was put into the process's environment.

        With ``LOCAL_RANK`` set it stays: processes that were started with it live on, and meet there again.
        """
        if self._chose_port and not self.creates_processes_externally:
            os.environ.pop("MASTER_PORT", None)
            self._chose_port = False

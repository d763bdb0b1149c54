"""No cluster: processes that Leyden starts itself, or that were started by hand with environment variables."""

from __future__ import annotations

import os

from leyden.plugins import Environment
from leyden.utilities.exceptions import MisconfigurationException
from leyden_ddp.environments import variables

_SETTER = "whoever starts the processes by hand"


class LocalEnvironment(Environment):
    """The environment that is used if no cluster or launcher is found, on one node or on several.

    On one node nothing needs to be set: the strategy's launcher starts the other processes. On several nodes, start the
    script once on each, with ``MASTER_ADDR`` (a host name or address of the node of rank 0), ``MASTER_PORT`` (a port
    that is free there) and ``NODE_RANK``. If you start every process by hand, set ``LOCAL_RANK`` too; then the launcher
    starts none.
    """

    def __init__(self) -> None:
        self._world_size = 1
        self._global_rank = 0
        self._chose_port = False

    @staticmethod
    def detect() -> bool:
        """False: it is used only if no other environment is found."""
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
        """``MASTER_PORT``; by default a free port, which is stored in that variable for the processes started here."""
        if "MASTER_PORT" not in os.environ:
            os.environ["MASTER_PORT"] = str(variables.free_port())
            self._chose_port = True
        return variables.port("MASTER_PORT", _SETTER)

    def world_size(self) -> int:
        """The number that the strategy has set; 1 before that."""
        return self._world_size

    def set_world_size(self, size: int) -> None:
        """Take the world size from the strategy."""
        self._world_size = size

    def global_rank(self) -> int:
        """The rank that the strategy has set; 0 before that."""
        return self._global_rank

    def set_global_rank(self, rank: int) -> None:
        """Take the rank from the strategy."""
        self._global_rank = rank

    def local_rank(self) -> int:
        """``LOCAL_RANK``, by default 0."""
        return variables.integer("LOCAL_RANK", _SETTER, default=0)

    def node_rank(self) -> int:
        """``NODE_RANK``, or ``GROUP_RANK``, by default 0."""
        name = "NODE_RANK" if "NODE_RANK" in os.environ else "GROUP_RANK"
        return variables.integer(name, _SETTER, default=0)

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Refuse variables that don't fit the Trainer's ``devices`` and ``num_nodes``.

        Raises:
            MisconfigurationException: A rank is too high, ``WORLD_SIZE`` is another number, or a variable is missing
                without which the processes would not meet.
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
        missing = self._missing(num_devices, num_nodes)
        if missing and self.creates_processes_externally:
            raise MisconfigurationException(
                f"LOCAL_RANK={os.environ['LOCAL_RANK']!r} in the environment says that this process is one of {wanted} "
                f"that were started by hand, but the environment lacks {' and '.join(missing)}, without which they "
                "don't find each other; unset LOCAL_RANK if it is left over, or set the rest too."
            )
        if missing:
            raise MisconfigurationException(
                f"devices={num_devices} and num_nodes={num_nodes} make {wanted} processes, but the environment lacks "
                f"{' and '.join(missing)}, without which they don't find each other; set MASTER_ADDR, MASTER_PORT and "
                f"NODE_RANK on every node, or start the script by torchrun, srun or mpirun."
            )

    def _missing(self, num_devices: int, num_nodes: int) -> list[str]:
        """The variables that are missing and whose defaults would differ between processes."""
        needed = []
        if num_nodes > 1:
            needed = ["MASTER_PORT"]
            needed += ["NODE_RANK"] if "GROUP_RANK" not in os.environ else []
            needed += ["MASTER_ADDR"] if self.node_rank() > 0 else []
        elif num_devices > 1 and self.creates_processes_externally:
            needed = ["MASTER_PORT"]
        return [name for name in needed if name not in os.environ]

    def teardown(self) -> None:
        """Remove ``MASTER_PORT`` if this object has set it.

        With ``LOCAL_RANK`` set it stays, because processes that were started with that port meet there again.
        """
        if self._chose_port and not self.creates_processes_externally:
            os.environ.pop("MASTER_PORT", None)
            self._chose_port = False

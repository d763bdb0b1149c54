"""The quux environment: reads a process's rank from the environment variables that the scheduler sets."""

from __future__ import annotations

import os

from leyden.plugins import Environment
from leyden.utilities import MisconfigurationException


class QuuxEnvironment(Environment):
    """Reads ``QUUX_RANK`` and the scheduler's other variables, which the README lists.

    Example::

        trainer = Trainer(strategy="ddp", devices=2, num_nodes=2)  # Leyden detects the environment
    """

    @staticmethod
    def detect() -> bool:
        """Whether the scheduler's variables are set."""
        return "QUUX_RANK" in os.environ

    @property
    def creates_processes_externally(self) -> bool:
        """True, since the scheduler creates all processes."""
        return True

    @property
    def main_address(self) -> str:
        """The host of rank 0."""
        return _text("QUUX_ADDRESS")

    @property
    def main_port(self) -> int:
        """The port on which rank 0 listens."""
        return _number("QUUX_PORT")

    def world_size(self) -> int:
        """Return the number of processes."""
        return _number("QUUX_WORLD_SIZE")

    def set_world_size(self, size: int) -> None:
        """Do nothing; the scheduler decides."""

    def global_rank(self) -> int:
        """Return this process's rank among all, from 0."""
        return _number("QUUX_RANK")

    def set_global_rank(self, rank: int) -> None:
        """Do nothing; the scheduler decides."""

    def local_rank(self) -> int:
        """Return this process's rank on its node, from 0."""
        return _number("QUUX_LOCAL_RANK")

    def node_rank(self) -> int:
        """Return this node's number, from 0."""
        return _number("QUUX_NODE_RANK")

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Check that the Trainer has as many processes as the scheduler created.

        Raises:
            MisconfigurationException: ``devices`` times ``num_nodes`` is not the world size.
        """
        created, wanted = self.world_size(), num_devices * num_nodes
        if created != wanted:
            raise MisconfigurationException(
                f"devices={num_devices} and num_nodes={num_nodes} make {wanted} processes, but the scheduler created "
                f"{created}; give both the same numbers."
            )


def _text(name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise MisconfigurationException(f"The environment variable {name} is missing; the scheduler should set it.")
    return value


def _number(name: str) -> int:
    value = _text(name)
    if not (value.isascii() and value.isdigit()):
        raise MisconfigurationException(
            f"The environment variable {name}={value!r} is not a number from 0 up; the scheduler should set it."
        )
    return int(value)

"""The quux environment: processes that a scheduler has made, each told by its variables which one it is."""

from __future__ import annotations

import os

from leyden.plugins import Environment
from leyden.utilities import MisconfigurationException


class QuuxEnvironment(Environment):
    """What the scheduler says in ``QUUX_RANK`` and its other variables, which the README lists.

    Example::

        trainer = Trainer(strategy="ddp", devices=2, num_nodes=2)  # it is found by its variables
    """

    @staticmethod
    def detect() -> bool:
        """Whether the scheduler's variables are there."""
        return "QUUX_RANK" in os.environ

    @property
    def creates_processes_externally(self) -> bool:
        """True: the scheduler has made them all."""
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
        """Processes in all."""
        return _number("QUUX_WORLD_SIZE")

    def set_world_size(self, size: int) -> None:
        """Nothing: the scheduler decided."""

    def global_rank(self) -> int:
        """This process among all, from 0."""
        return _number("QUUX_RANK")

    def set_global_rank(self, rank: int) -> None:
        """Nothing: the scheduler decided."""

    def local_rank(self) -> int:
        """This process among those of its node, from 0."""
        return _number("QUUX_LOCAL_RANK")

    def node_rank(self) -> int:
        """This node among all, from 0."""
        return _number("QUUX_NODE_RANK")

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Refuse a Trainer whose processes are not those that the scheduler has made.

        Raises:
            MisconfigurationException: ``devices`` times ``num_nodes`` is not the world size.
        """
        made, wanted = self.world_size(), num_devices * num_nodes
        if made != wanted:
            raise MisconfigurationException(
                f"devices={num_devices} and num_nodes={num_nodes} make {wanted} processes, but the scheduler has made "
                f"{made}; give both the same numbers."
            )


def _text(name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise MisconfigurationException(f"The environment variable {name} is missing; the scheduler sets it.")
    return value


def _number(name: str) -> int:
    value = _text(name)
    if not (value.isascii() and value.isdigit()):
        raise MisconfigurationException(
            f"The environment variable {name} should be a number from 0 up and is {value!r}; the scheduler sets it."
        )
    return int(value)

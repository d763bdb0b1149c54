"""Pods of a Kubeflow PyTorchJob, each with one process."""

from __future__ import annotations

from typing import ClassVar

from leyden_ddp.environments import variables
from leyden_ddp.environments.launched import LaunchedEnvironment


class KubeflowEnvironment(LaunchedEnvironment):
    """One process in each pod of a PyTorchJob of Kubeflow's training operator.

    The operator sets ``MASTER_ADDR``, ``MASTER_PORT``, ``WORLD_SIZE`` and ``RANK``, as others do too, so it can't be
    recognised: give an instance among the Trainer's ``plugins``. Every pod counts as a node, so write ``devices=1``
    and ``num_nodes`` as the number of pods. A pod with several processes starts them by ``torchrun``, which is
    recognised by itself.
    """

    launcher: ClassVar[str] = "Kubeflow's training operator"

    @staticmethod
    def detect() -> bool:
        """False: nothing tells it from other launchers."""
        return False

    def world_size(self) -> int:
        """``WORLD_SIZE``."""
        return variables.integer("WORLD_SIZE", self.launcher)

    def global_rank(self) -> int:
        """``RANK``."""
        return variables.integer("RANK", self.launcher)

    def local_rank(self) -> int:
        """0, as the process is alone in its pod."""
        return 0

    def node_rank(self) -> int:
        """The pod's: that of its process."""
        return self.global_rank()

    def processes_of_node(self) -> int | None:
        """1."""
        return 1

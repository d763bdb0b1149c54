"""Pods of a Kubeflow PyTorchJob, each with one process."""

from __future__ import annotations

from typing import ClassVar

from leyden_ddp.environments import variables
from leyden_ddp.environments.launched import LaunchedEnvironment


class KubeflowEnvironment(LaunchedEnvironment):
    """One process in each pod of a PyTorchJob of Kubeflow's training operator.

    The operator sets ``MASTER_ADDR``, ``MASTER_PORT``, ``WORLD_SIZE`` and ``RANK``. Others set these too, so the
    operator can't be recognised: pass an instance in the Trainer's ``plugins``. Every pod counts as a node: write
    ``devices=1``, and the number of pods as ``num_nodes``. A pod with several processes starts them with ``torchrun``,
    which is recognised.
    """

    launcher: ClassVar[str] = "Kubeflow's training operator"

    @staticmethod
    def detect() -> bool:
        """False: no variable distinguishes the operator from other launchers."""
        return False

    def world_size(self) -> int:
        """``WORLD_SIZE``."""
        return variables.integer("WORLD_SIZE", self.launcher)

    def global_rank(self) -> int:
        """``RANK``."""
        return variables.integer("RANK", self.launcher)

    def local_rank(self) -> int:
        """0: the process is alone in its pod."""
        return 0

    def node_rank(self) -> int:
        """``RANK``: the number of the pod is that of its only process."""
        return self.global_rank()

    def processes_of_node(self) -> int | None:
        """1: a pod has one process."""
        return 1

"""Processes started by ``torchrun``."""

from __future__ import annotations

import os
from typing import ClassVar

import torch.distributed

from leyden_ddp.environments import variables
from leyden_ddp.environments.launched import LaunchedEnvironment


class TorchElasticEnvironment(LaunchedEnvironment):
    """Processes started by ``torchrun``, which can also restart them after a failure (``--max-restarts``).

    The variables are described in PyTorch's documentation of torchrun. They are read at each question, because after a
    restart a process may have another rank and the world another size.
    """

    launcher: ClassVar[str] = "torchrun"

    @staticmethod
    def detect() -> bool:
        """Whether ``torchrun`` (``torch.distributed.run``) started this process."""
        return torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()

    def world_size(self) -> int:
        """``WORLD_SIZE``."""
        return variables.integer("WORLD_SIZE", self.launcher)

    def global_rank(self) -> int:
        """``RANK``."""
        return variables.integer("RANK", self.launcher)

    def local_rank(self) -> int:
        """``LOCAL_RANK``."""
        return variables.integer("LOCAL_RANK", self.launcher)

    def node_rank(self) -> int:
        """``GROUP_RANK``: the rank of the node's agent."""
        return variables.integer("GROUP_RANK", self.launcher, default=0)

    def processes_of_node(self) -> int | None:
        """``LOCAL_WORLD_SIZE``, torchrun's ``--nproc-per-node``."""
        if "LOCAL_WORLD_SIZE" not in os.environ:
            return None
        return variables.integer("LOCAL_WORLD_SIZE", self.launcher)

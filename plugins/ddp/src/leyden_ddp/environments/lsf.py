"""Processes started by ``jsrun`` in a job of IBM's LSF."""

from __future__ import annotations

import os
import socket
from typing import ClassVar

from leyden.utilities.exceptions import MisconfigurationException
from leyden_ddp.environments import variables
from leyden_ddp.environments.launched import LaunchedEnvironment


class LSFEnvironment(LaunchedEnvironment):
    """Processes started by ``jsrun``, the job step manager of an LSF job.

    Ranks come from the variables of jsrun. Hosts come from the file that LSF names in ``LSB_DJOB_RANKFILE``. It has a
    line for each slot; the first line is the node that only launches.
    """

    launcher: ClassVar[str] = "jsrun"

    @staticmethod
    def detect() -> bool:
        """Whether the variables of an LSF job and of jsrun are set."""
        needed = {"LSB_JOBID", "LSB_DJOB_RANKFILE", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_SIZE"}
        return needed <= os.environ.keys()

    @property
    def main_address(self) -> str:
        """The first host that runs processes."""
        return _hosts()[0]

    @property
    def main_port(self) -> int:
        """``MASTER_PORT``, or 10000 plus the last three digits of the job's number, which all processes know."""
        if "MASTER_PORT" in os.environ:
            return super().main_port
        return variables.integer("LSB_JOBID", "LSF") % 1000 + 10000

    def world_size(self) -> int:
        """``JSM_NAMESPACE_SIZE``."""
        return variables.integer("JSM_NAMESPACE_SIZE", self.launcher)

    def global_rank(self) -> int:
        """``JSM_NAMESPACE_RANK``."""
        return variables.integer("JSM_NAMESPACE_RANK", self.launcher)

    def local_rank(self) -> int:
        """``JSM_NAMESPACE_LOCAL_RANK``."""
        return variables.integer("JSM_NAMESPACE_LOCAL_RANK", self.launcher)

    def node_rank(self) -> int:
        """The position of this host among the hosts that run processes."""
        hosts, here = _hosts(), socket.gethostname()
        if here not in hosts:
            raise MisconfigurationException(
                f"This host, {here!r}, is not among those of the file in LSB_DJOB_RANKFILE ({', '.join(hosts)}); "
                f"start the script by jsrun, so that it runs on one of them."
            )
        return hosts.index(here)


def _hosts() -> list[str]:
    """The hosts that run processes, each once, in the order of the file."""
    path = variables.text("LSB_DJOB_RANKFILE", "LSF")
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().split()
    except OSError as error:
        raise MisconfigurationException(
            f"The file {path!r} that LSF names in LSB_DJOB_RANKFILE can't be read: {error.strerror}."
        ) from error
    if len(lines) < 2:
        raise MisconfigurationException(
            f"The file {path!r} that LSF names in LSB_DJOB_RANKFILE should list the launching node and then at least "
            f"one host, but has {len(lines)} lines."
        )
    return list(dict.fromkeys(lines[1:]))

"""Processes started by ``srun`` in a SLURM job, which may ask to be run again when its time is up."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from typing import ClassVar

from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_info, rank_zero_warn
from leyden_ddp.environments import variables
from leyden_ddp.environments.launched import LaunchedEnvironment


class SLURMEnvironment(LaunchedEnvironment):
    """Processes started by ``srun``, one task for each device.

    The variables are described in the manual page of ``srun``, under "output environment variables".

    Args:
        auto_requeue: Whether a run that gets ``requeue_signal`` is saved, ended and put back into the queue.
        requeue_signal: The signal that announces the end of the job's time, as in ``#SBATCH --signal=SIGUSR1@90``;
            SIGUSR1 by default, where the system has it.
    """

    launcher: ClassVar[str] = "srun"

    def __init__(self, auto_requeue: bool = True, requeue_signal: signal.Signals | None = None) -> None:
        self.auto_requeue = auto_requeue
        self._requeue_signal = requeue_signal or getattr(signal, "SIGUSR1", None)

    @staticmethod
    def detect() -> bool:
        """Whether ``srun`` has started this process.

        Two kinds of processes have variables of SLURM that are not about themselves: those of the batch script or of
        an interactive shell (jobs named ``bash`` or ``interactive``), and those that an ``mpirun`` within the job has
        started. For both the answer is False.
        """
        by_srun = {"SLURM_NTASKS", "SLURM_STEP_ID"} <= os.environ.keys()
        by_mpirun = not os.environ.keys().isdisjoint({"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"})
        return by_srun and not by_mpirun and SLURMEnvironment.job_name() not in ("bash", "interactive")

    @staticmethod
    def job_name() -> str | None:
        """The name of the job; None outside of a job."""
        return os.environ.get("SLURM_JOB_NAME")

    @staticmethod
    def job_id() -> int | None:
        """The number of the job; None outside of a job, and in an interactive one, which several runs may share."""
        number = os.environ.get("SLURM_JOB_ID", "")
        interactive = SLURMEnvironment.job_name() in ("bash", "interactive")
        return int(number) if number.isdigit() and not interactive else None

    @property
    def main_address(self) -> str:
        """``MASTER_ADDR``, or the first node of the step or of the job."""
        if "MASTER_ADDR" in os.environ:
            return super().main_address
        known = [name for name in ("SLURM_STEP_NODELIST", "SLURM_NODELIST") if name in os.environ]
        return self.resolve_root_node_address(variables.text(known[0] if known else "SLURM_NODELIST", self.launcher))

    @property
    def main_port(self) -> int:
        """``MASTER_PORT``, or 15000 plus the last four digits of the job's number, which all processes know."""
        if "MASTER_PORT" in os.environ:
            return super().main_port
        return 15000 + variables.integer("SLURM_JOB_ID", self.launcher) % 10000

    @staticmethod
    def resolve_root_node_address(nodes: str) -> str:
        """The first host of a list as SLURM writes it.

        Args:
            nodes: Hosts separated by commas or spaces. Numbers and ranges in brackets stand for several hosts:
                ``"rack[1-2]n[03-07,9]-ib,login"`` begins with ``"rack1n03-ib"``.

        Raises:
            MisconfigurationException: The text is no such list.
        """
        first = re.match(r"\s*((?:[^\s,\[\]]|\[\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*\])+)(?:[\s,]|$)", nodes)
        if first is None:
            raise MisconfigurationException(
                f"SLURM's list of nodes is {nodes!r} and has no first host; set MASTER_ADDR to the host of rank 0."
            )
        return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[1])

    def world_size(self) -> int:
        """``SLURM_NTASKS``."""
        return variables.integer("SLURM_NTASKS", self.launcher)

    def global_rank(self) -> int:
        """``SLURM_PROCID``."""
        return variables.integer("SLURM_PROCID", self.launcher)

    def local_rank(self) -> int:
        """``SLURM_LOCALID``."""
        return variables.integer("SLURM_LOCALID", self.launcher)

    def node_rank(self) -> int:
        """``SLURM_NODEID``."""
        return variables.integer("SLURM_NODEID", self.launcher)

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Refuse a Trainer that the job's options don't fit.

        Raises:
            MisconfigurationException: ``devices`` isn't ``--ntasks-per-node``, ``num_nodes`` isn't ``--nodes``, or
                srun has started another number of tasks than their product.
        """
        for variable, option, argument, number in (
            ("SLURM_NTASKS_PER_NODE", "--ntasks-per-node", "devices", num_devices),
            ("SLURM_NNODES", "--nodes", "num_nodes", num_nodes),
        ):
            told = variables.integer(variable, self.launcher, default=number)
            if told != number:
                raise MisconfigurationException(
                    f"{argument}={number}, but the SLURM job has {option}={told}; write {argument}={told} in the "
                    f"Trainer or {option}={number} in the job."
                )
        super().validate_settings(num_devices, num_nodes)

    @property
    def requeue_signal(self) -> signal.Signals | None:
        """The signal at which the run is saved and the job requeued; None with ``auto_requeue=False``."""
        return self._requeue_signal if self.auto_requeue else None

    def requeue(self) -> None:
        """Put the job, or this task of a job array, back into the queue with ``scontrol``; warn if that fails."""
        job = variables.text("SLURM_JOB_ID", self.launcher)
        if "SLURM_ARRAY_JOB_ID" in os.environ:
            array = variables.text("SLURM_ARRAY_JOB_ID", self.launcher)
            job = f"{array}_{variables.text('SLURM_ARRAY_TASK_ID', self.launcher)}"
        try:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
            reason = done.stderr.strip() or f"exit status {done.returncode}" if done.returncode else ""
        except OSError as error:
            reason = f"scontrol can't be run, {error.strerror}"
        if reason:
            rank_zero_warn(f"The SLURM job {job} was not requeued ({reason}); queue it again: scontrol requeue {job}.")
        else:
            rank_zero_info(f"The SLURM job {job} is in the queue again.")

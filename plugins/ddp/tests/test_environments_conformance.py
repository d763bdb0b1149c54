"""Each environment is one, by the conformance kit."""

import socket
import sys

import pytest

from leyden_testing import EnvironmentConformance

MEETING = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "23456"}


class TestTorchrun(EnvironmentConformance):
    @pytest.fixture
    def name(self):
        return "torchrun"

    @pytest.fixture
    def variables(self):
        return lambda rank, local_rank, node, size: {
            **MEETING, "RANK": str(rank), "LOCAL_RANK": str(local_rank), "GROUP_RANK": str(node),
            "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(min(size, 2)), "TORCHELASTIC_RUN_ID": "run",
        }  # fmt: skip


class TestSLURM(EnvironmentConformance):
    @pytest.fixture
    def name(self):
        return "slurm"

    @pytest.fixture
    def variables(self):
        return lambda rank, local_rank, node, size: {
            "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(local_rank), "SLURM_NODEID": str(node),
            "SLURM_NTASKS": str(size), "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "4711", "SLURM_NODELIST": "n[1-2]",
        }  # fmt: skip


class TestLSF(EnvironmentConformance):
    @pytest.fixture
    def name(self):
        return "lsf"

    @pytest.fixture
    def nodes(self):
        return [2]  # the node's rank is the place of this host, and there is one

    @pytest.fixture
    def variables(self, tmp_path):
        ranks = tmp_path / "ranks"
        ranks.write_text(f"launching\n{socket.gethostname()}\n{socket.gethostname()}\n")
        return lambda rank, local_rank, node, size: {
            "LSB_JOBID": "4711", "LSB_DJOB_RANKFILE": str(ranks), "JSM_NAMESPACE_RANK": str(rank),
            "JSM_NAMESPACE_LOCAL_RANK": str(local_rank), "JSM_NAMESPACE_SIZE": str(size),
        }  # fmt: skip


class TestMPI(EnvironmentConformance):
    """By the variables of an ``mpirun``; with mpi4py it would ask processes that are not there."""

    @pytest.fixture
    def name(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
        return "mpi"

    @pytest.fixture
    def variables(self):
        return lambda rank, local_rank, node, size: {
            **MEETING, "OMPI_COMM_WORLD_SIZE": str(size), "OMPI_COMM_WORLD_RANK": str(rank),
            "OMPI_COMM_WORLD_LOCAL_RANK": str(local_rank), "OMPI_COMM_WORLD_LOCAL_SIZE": str(min(size, 2)),
        }  # fmt: skip


class TestKubeflow(EnvironmentConformance):
    @pytest.fixture
    def name(self):
        return "kubeflow"

    @pytest.fixture
    def nodes(self):
        return [1, 1, 1, 1]  # every pod counts as a node

    @pytest.fixture
    def variables(self):
        return lambda rank, local_rank, node, size: {**MEETING, "RANK": str(rank), "WORLD_SIZE": str(size)}


class TestLocal(EnvironmentConformance):
    @pytest.fixture
    def name(self):
        return "local"

    @pytest.fixture
    def variables(self):
        return lambda rank, local_rank, node, size: {
            **MEETING, "LOCAL_RANK": str(local_rank), "NODE_RANK": str(node), "WORLD_SIZE": str(size),
        }  # fmt: skip

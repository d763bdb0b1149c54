"""Environments in processes that the real launchers started: torchrun, and mpirun where it is installed."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import datetime, json, os, sys, warnings
folder, without, lightning = sys.argv[1:]
if without:
    sys.modules[without] = None
import torch.distributed as dist
from leyden.plugin_system.discovery import discover

def facts(environment):
    return {
        "external": environment.creates_processes_externally,
        "world size": environment.world_size(),
        "global rank": environment.global_rank(),
        "local rank": environment.local_rank(),
        "node rank": environment.node_rank(),
    }

found = [part for part in discover().components("environment") if part.load().detect()]
part = max(found, key=lambda part: part.options["priority"])
environment = part.build()
answer = {"name": part.name, **facts(environment)}
if lightning:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning_fabric.plugins import environments
    theirs = getattr(environments, type(environment).__name__)
    answer["as lightning"] = theirs.detect() and facts(theirs()) == facts(environment)
of_node = environment.processes_of_node()
environment.validate_settings(of_node, environment.world_size() // of_node)
dist.init_process_group(
    "gloo",
    init_method="env://" if part.name == "torchrun" else f"tcp://{environment.main_address}:{environment.main_port}",
    rank=environment.global_rank(),
    world_size=environment.world_size(),
    timeout=datetime.timedelta(seconds=60),
)
answers = [None] * environment.world_size()
dist.all_gather_object(answers, (environment.main_address, environment.main_port))
dist.destroy_process_group()
answer["same meeting place"] = len(set(answers)) == 1
with open(os.path.join(folder, str(environment.global_rank())), "w") as file:
    json.dump(answer, file)
"""

ON_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
MPIRUN = shutil.which("mpirun", path=ON_PATH)
needs_mpirun = pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun; pip install mpich brings one")
needs_mpi4py = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed: pip install mpi4py"
)


@pytest.fixture
def launch(tmp_path):
    """Runs the script by launchers side by side, and returns what its processes say, in the order of ranks."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    answers = tmp_path / "answers"
    answers.mkdir()

    def run(*launchers, without="", lightning="", **variables):
        environment = {"PATH": ON_PATH, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path), **variables}
        started = [
            subprocess.Popen(
                [*launcher, str(script), str(answers), without, lightning],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for launcher in launchers
        ]
        try:
            outputs = [process.communicate(timeout=120)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        assert [process.returncode for process in started] == [0] * len(started), outputs
        return [json.loads(file.read_text()) for file in sorted(answers.iterdir())]

    return run


def places(answers):
    """World size and global, local and node rank of each process."""
    return [
        tuple(answer[f"{name}"] for name in ("world size", "global rank", "local rank", "node rank"))
        for answer in answers
    ]


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.mark.slow
def test_two_processes_of_torchrun(launch):
    answers = launch([*TORCHRUN, "--standalone", "--nproc-per-node=2"], lightning="yes")
    assert places(answers) == [(2, 0, 0, 0), (2, 1, 1, 0)]
    assert all(answer["name"] == "torchrun" and answer["external"] for answer in answers)
    assert all(answer["same meeting place"] and answer["as lightning"] for answer in answers)


@pytest.mark.slow
def test_two_nodes_of_torchrun(launch):
    meeting = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    answers = launch(*([*TORCHRUN, *meeting, f"--node-rank={node}"] for node in (0, 1)))
    assert places(answers) == [(2, 0, 0, 0), (2, 1, 0, 1)]
    assert all(answer["same meeting place"] for answer in answers)


def mpirun():
    """The command for two processes; Open MPI's has to be told that it may, as root and on few cores."""
    version = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True, check=True).stdout
    may = ["--allow-run-as-root", "--oversubscribe"] if "Open MPI" in version or "PRRTE" in version else []
    return [MPIRUN, *may, "-n", "2", sys.executable]


@pytest.mark.slow
@needs_mpirun
def test_two_processes_of_mpirun_by_its_variables(launch):
    answers = launch(mpirun(), without="mpi4py.MPI", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    assert places(answers) == [(2, 0, 0, 0), (2, 1, 1, 0)]
    assert all(answer["name"] == "mpi" and answer["external"] and answer["same meeting place"] for answer in answers)


@pytest.mark.slow
@needs_mpirun
@needs_mpi4py
def test_two_processes_of_mpirun_by_mpi4py(launch):
    answers = launch(mpirun(), lightning="yes")
    assert places(answers) == [(2, 0, 0, 0), (2, 1, 1, 0)]
    assert all(answer["name"] == "mpi" and answer["external"] for answer in answers)
    assert all(answer["same meeting place"] and answer["as lightning"] for answer in answers)

"""The environments by the variables that their launchers set, beside pytorch-lightning's of the same names."""

import os
import pickle
import socket
import sys
import warnings
from unittest import mock

import pytest

from leyden.plugins import (
    Environment,
    KubeflowEnvironment,
    LightningEnvironment,
    LocalEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
    discover,
)
from leyden.utilities import MisconfigurationException

ALL = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment, KubeflowEnvironment, LocalEnvironment)
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29400",
    "WORLD_SIZE": "4",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
}
KUBEFLOW = {"MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456", "WORLD_SIZE": "4", "RANK": "2"}
SLURM = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NAME": "train",
    "SLURM_NODELIST": "gpu[07-08]",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "2",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
OPENMPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_NODE_RANK": "1",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}
MPICH = {
    "PMI_SIZE": "4",
    "PMI_RANK": "3",
    "MPI_LOCALRANKID": "1",
    "MPI_LOCALNRANKS": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}
BY_HAND = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500", "NODE_RANK": "1", "LOCAL_RANK": "1"}


def variables(values=(), **more):
    """A block in which the process's environment has these variables only."""
    return mock.patch.dict(os.environ, {**dict(values), **more}, clear=True)


def without(values, *names):
    return {name: value for name, value in values.items() if name not in names}


def facts(environment):
    """All that an environment says."""
    return {
        "external": environment.creates_processes_externally,
        "world size": environment.world_size(),
        "global rank": environment.global_rank(),
        "local rank": environment.local_rank(),
        "node rank": environment.node_rank(),
        "address": environment.main_address,
        "port": environment.main_port,
    }


@pytest.fixture(autouse=True)
def _no_mpi4py(monkeypatch):
    """MPI by the launcher's variables, whatever is installed."""
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)


@pytest.fixture
def lsf(tmp_path):
    """The variables of the last of four processes on two hosts, the second of them this one."""
    file = tmp_path / "rankfile"
    file.write_text("\n".join(["launcher", "first", "first", socket.gethostname(), socket.gethostname(), ""]))
    return {
        "LSB_JOBID": "1234567",
        "LSB_DJOB_RANKFILE": str(file),
        "JSM_NAMESPACE_SIZE": "4",
        "JSM_NAMESPACE_RANK": "3",
        "JSM_NAMESPACE_LOCAL_RANK": "1",
    }


@pytest.fixture(scope="module")
def lightning():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning_fabric.plugins import environments
    return environments


@pytest.mark.parametrize("cls", ALL)
def test_each_is_an_environment_found_by_name_and_class_name(cls):
    assert issubclass(cls, Environment)
    part = discover().component("environment", cls.__name__)
    assert part.load() is cls
    assert part.name in ("torchrun", "slurm", "lsf", "mpi", "kubeflow", "local")
    assert discover().component("environment", part.name) is part


def test_lightning_s_name_of_the_local_environment_works():
    assert LightningEnvironment is LocalEnvironment


def found():
    """The names of the environments that apply, in the order of their priorities."""
    parts = sorted(discover().components("environment"), key=lambda part: -part.options["priority"])
    return [part.name for part in parts if part.load().detect()]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({}, []),
        (TORCHRUN, ["torchrun"]),
        (SLURM, ["slurm"]),
        (OPENMPI, ["mpi"]),
        (MPICH, ["mpi"]),
        (KUBEFLOW, []),
        (BY_HAND, []),
        ({**SLURM, **TORCHRUN}, ["torchrun", "slurm"]),  # srun torchrun …
        ({**SLURM, **OPENMPI}, ["mpi"]),  # mpirun in a SLURM job
        ({**SLURM, **MPICH}, ["mpi"]),
        ({**SLURM, "PMI_RANK": "3", "PMI_SIZE": "4"}, ["slurm", "mpi"]),  # srun --mpi=pmi2
        (without(SLURM, "SLURM_STEP_ID"), []),  # the batch script itself
        ({**SLURM, "SLURM_JOB_NAME": "bash"}, []),
        ({**SLURM, "SLURM_JOB_NAME": "interactive"}, []),
        ({**OPENMPI, "OMPI_COMM_WORLD_SIZE": "1"}, []),
        ({"TORCHELASTIC_RUN_ID": "none", **KUBEFLOW}, ["torchrun"]),
    ],
)
def test_the_launcher_is_found_by_its_variables(values, names):
    with variables(values):
        assert found() == names


def test_lsf_goes_before_the_mpi_that_it_starts(lsf):
    with variables({**OPENMPI, **lsf}):
        assert found() == ["lsf", "mpi"]
    with variables(without(lsf, "JSM_NAMESPACE_SIZE")):
        assert found() == []


LAST_OF_FOUR = {"external": True, "world size": 4, "global rank": 3, "local rank": 1, "node rank": 1}


@pytest.mark.parametrize(
    ("cls", "values", "expected"),
    [
        (TorchElasticEnvironment, TORCHRUN, {**LAST_OF_FOUR, "address": "node0", "port": 29400}),
        (TorchElasticEnvironment, without(TORCHRUN, "GROUP_RANK"), {"node rank": 0}),
        (SLURMEnvironment, SLURM, {**LAST_OF_FOUR, "address": "gpu07", "port": 19567}),
        (SLURMEnvironment, {**SLURM, "MASTER_ADDR": "a", "MASTER_PORT": "7"}, {"address": "a", "port": 7}),
        (
            KubeflowEnvironment,
            KUBEFLOW,
            {
                "external": True,
                "world size": 4,
                "global rank": 2,
                "local rank": 0,
                "node rank": 2,
                "address": "job-master-0",
                "port": 23456,
            },
        ),
        (LocalEnvironment, {"MASTER_PORT": "7"}, {"external": False, "local rank": 0, "node rank": 0, "port": 7}),
        (LocalEnvironment, BY_HAND, {"external": True, "local rank": 1, "node rank": 1, "address": "node0"}),
        (LocalEnvironment, {**BY_HAND, "GROUP_RANK": "0"}, {"node rank": 1}),
        (LocalEnvironment, {"GROUP_RANK": "2", "MASTER_PORT": "7"}, {"node rank": 2, "address": "127.0.0.1"}),
    ],
)
def test_facts_are_the_variables_and_lightning_s(cls, values, expected, lightning):
    with variables(values):
        ours = facts(cls())
    theirs = getattr(lightning, "LightningEnvironment" if cls is LocalEnvironment else cls.__name__)
    with variables(values):
        assert ours == facts(theirs())
    assert {**ours, **expected} == ours


@pytest.mark.parametrize("port", [None, "7"])
def test_facts_of_lsf_are_its_variables_and_lightning_s(lsf, lightning, port):
    values = {**lsf, **({"MASTER_PORT": port} if port else {})}
    with variables(values):
        ours = facts(LSFEnvironment())
        assert ours == facts(lightning.LSFEnvironment())
    assert ours == {**LAST_OF_FOUR, "address": "first", "port": int(port) if port else 10567}


@pytest.mark.parametrize("values", [OPENMPI, MPICH])
def test_facts_of_mpi_without_mpi4py_are_the_launcher_s(values):
    with variables(values):
        assert facts(MPIEnvironment()) == {**LAST_OF_FOUR, "address": "node0", "port": 29500}


@pytest.mark.parametrize("cls", [TorchElasticEnvironment, SLURMEnvironment, KubeflowEnvironment, MPIEnvironment])
def test_a_launcher_s_ranks_are_not_the_strategy_s_to_set(cls):
    with variables({**TORCHRUN, **SLURM, **OPENMPI}):
        environment = cls()
        environment.set_world_size(17)
        environment.set_global_rank(16)
        assert (environment.world_size(), environment.global_rank()) == (4, 3)


@pytest.mark.parametrize("cls", [TorchElasticEnvironment, SLURMEnvironment, MPIEnvironment])
def test_the_launcher_s_environment_is_left_as_it_is(cls):
    with variables({**TORCHRUN, **SLURM, **OPENMPI}):
        before = dict(os.environ)
        environment = cls()
        facts(environment)
        environment.teardown()
        assert dict(os.environ) == before


def test_the_local_environment_is_told_its_place():
    with variables(MASTER_PORT="7"):
        environment = LocalEnvironment()
        assert (environment.world_size(), environment.global_rank()) == (1, 0)
        environment.set_world_size(4)
        environment.set_global_rank(3)
        again = pickle.loads(pickle.dumps(environment))
        assert (again.world_size(), again.global_rank()) == (4, 3)


def test_a_free_port_is_found_once_for_all_processes_and_taken_back():
    with variables():
        environment = LocalEnvironment()
        port = environment.main_port
        with socket.socket() as server:
            server.bind(("", port))
        assert os.environ["MASTER_PORT"] == str(port)
        assert environment.main_port == port
        assert LocalEnvironment().main_port == port
        environment.teardown()
        assert "MASTER_PORT" not in os.environ


def test_a_free_port_is_none_that_the_system_gives_to_connections():
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))  # such a one, as that of the client
        server.listen()
        client.connect(server.getsockname())
        given = {server.getsockname()[1], client.getsockname()[1]}
    with variables():
        environment = LocalEnvironment()
        port = environment.main_port
        environment.teardown()
    assert port < min(given)
    with socket.socket() as probe:
        probe.bind(("", port))


def test_a_port_that_other_processes_were_started_with_stays():
    with variables():
        environment = LocalEnvironment()
        port = environment.main_port
        os.environ["LOCAL_RANK"] = "0"  # as in the process that has started the others
        environment.teardown()
        again = LocalEnvironment()
        again.validate_settings(2, 1)
        assert again.main_port == port


def test_a_port_of_the_user_s_is_not_taken_back():
    with variables(MASTER_PORT="7"):
        environment = LocalEnvironment()
        assert environment.main_port == 7
        environment.teardown()
        assert os.environ["MASTER_PORT"] == "7"


@pytest.mark.parametrize(
    ("cls", "values", "devices", "nodes"),
    [
        (TorchElasticEnvironment, TORCHRUN, 2, 2),
        (TorchElasticEnvironment, without(TORCHRUN, "LOCAL_WORLD_SIZE"), 4, 1),
        (SLURMEnvironment, SLURM, 2, 2),
        (SLURMEnvironment, without(SLURM, "SLURM_NTASKS_PER_NODE"), 2, 2),
        (KubeflowEnvironment, KUBEFLOW, 1, 4),
        (MPIEnvironment, OPENMPI, 2, 2),
        (MPIEnvironment, MPICH, 2, 2),
        (LocalEnvironment, {}, 4, 1),
        (LocalEnvironment, {"WORLD_SIZE": "9"}, 4, 1),  # somebody else's: no process was started by hand
        (LocalEnvironment, BY_HAND, 2, 2),
        (LocalEnvironment, {"MASTER_PORT": "7", "NODE_RANK": "0"}, 2, 2),
        (LocalEnvironment, {"MASTER_PORT": "7", "GROUP_RANK": "0"}, 2, 2),
        (LocalEnvironment, {"LOCAL_RANK": "0"}, 1, 1),
    ],
)
def test_a_trainer_that_fits_is_accepted(cls, values, devices, nodes):
    with variables(values):
        before = dict(os.environ)
        cls().validate_settings(devices, nodes)
        assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("cls", "values", "devices", "nodes", "words"),
    [
        (TorchElasticEnvironment, TORCHRUN, 2, 1, "devices=2 and num_nodes=1 make 2 .* torchrun has started 4, 2 of"),
        (TorchElasticEnvironment, TORCHRUN, 4, 1, "4 on each node, but torchrun has started 4, 2 of them on this"),
        (SLURMEnvironment, SLURM, 4, 2, r"devices=4, but the SLURM job has --ntasks-per-node=2; write devices=2"),
        (SLURMEnvironment, SLURM, 2, 1, r"num_nodes=1, but the SLURM job has --nodes=2; write num_nodes=2"),
        (SLURMEnvironment, {**SLURM, "SLURM_NTASKS": "3"}, 2, 2, "make 4 processes.* srun has started 3;"),
        (KubeflowEnvironment, KUBEFLOW, 1, 2, "make 2 processes.*training operator has started 4, 1 of them"),
        (KubeflowEnvironment, KUBEFLOW, 2, 2, "2 on each node, but .* has started 4, 1 of them on this node"),
        (MPIEnvironment, OPENMPI, 1, 4, "1 on each node, but mpirun has started 4, 2 of them on this node"),
        (LocalEnvironment, BY_HAND, 1, 2, "LOCAL_RANK is 1, but devices=1 has ranks 0 to 0 only; write devices=2"),
        (LocalEnvironment, BY_HAND, 2, 1, "NODE_RANK is 1, but num_nodes=1"),
        (LocalEnvironment, {**BY_HAND, "WORLD_SIZE": "8"}, 2, 2, "make 4 processes, but .* WORLD_SIZE is 8"),
        (LocalEnvironment, {}, 1, 2, "lacks MASTER_PORT and NODE_RANK, .* or start the script by torchrun"),
        (LocalEnvironment, {"MASTER_PORT": "7", "NODE_RANK": "1"}, 1, 2, "the environment lacks MASTER_ADDR,"),
        (LocalEnvironment, {"LOCAL_RANK": "1"}, 2, 1, "LOCAL_RANK='1' .* lacks MASTER_PORT, .*; unset LOCAL_RANK if"),
    ],
)
def test_a_trainer_that_does_not_fit_is_refused(cls, values, devices, nodes, words):
    with variables(values), pytest.raises(MisconfigurationException, match=words) as caught:
        cls().validate_settings(devices, nodes)
    is_one_sentence(caught.value)


def test_lsf_refuses_another_number_of_processes(lsf):
    with variables(lsf):
        LSFEnvironment().validate_settings(2, 2)
        with pytest.raises(MisconfigurationException, match=r"make 2 processes.* but jsrun has started 4;"):
            LSFEnvironment().validate_settings(2, 1)


def is_one_sentence(error):
    assert str(error).endswith(".")
    assert "\n" not in str(error)


NEEDED = [
    (TorchElasticEnvironment, TORCHRUN, "torchrun", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"]),
    (
        SLURMEnvironment,
        SLURM,
        "srun",
        ["SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NODELIST", "SLURM_JOB_ID"],
    ),
    (KubeflowEnvironment, KUBEFLOW, "Kubeflow's training operator", list(KUBEFLOW)),
    (MPIEnvironment, OPENMPI, "mpirun", ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"]),
    (MPIEnvironment, MPICH, "mpirun", ["PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"]),
    (MPIEnvironment, MPICH, "without mpi4py the user", ["MASTER_ADDR", "MASTER_PORT"]),
]
EACH_NEEDED = [(cls, values, setter, name) for cls, values, setter, names in NEEDED for name in names]


@pytest.mark.parametrize(("cls", "values", "setter", "name"), EACH_NEEDED)
def test_a_missing_variable_is_named_with_what_sets_it(cls, values, setter, name):
    words = f"variable {name} is missing; {setter} sets it"
    for broken in (without(values, name), {**values, name: " "}):
        with variables(broken), pytest.raises(MisconfigurationException, match=words) as caught:
            facts(cls())
        is_one_sentence(caught.value)


@pytest.mark.parametrize("value", ["two", "-1", "1.5", "²"])
@pytest.mark.parametrize(
    ("cls", "values", "setter", "name"),
    [each for each in EACH_NEEDED if not each[3].endswith(("ADDR", "NODELIST"))]
    + [(LocalEnvironment, BY_HAND, "by hand", name) for name in ("LOCAL_RANK", "NODE_RANK", "MASTER_PORT")],
)
def test_a_variable_that_is_no_number_is_shown(cls, values, setter, name, value):
    words = f"variable {name} should be an integer from 0 up and is '{value}'; .*{setter} sets it"
    with variables({**values, name: value}), pytest.raises(MisconfigurationException, match=words) as caught:
        facts(cls())
    is_one_sentence(caught.value)


@pytest.mark.parametrize("value", ["0", "65536"])
@pytest.mark.parametrize(("cls", "values"), [(TorchElasticEnvironment, TORCHRUN), (LocalEnvironment, BY_HAND)])
def test_a_port_that_cannot_be_is_shown(cls, values, value):
    words = f"a port from 1 to 65535 and is {value};"
    with variables({**values, "MASTER_PORT": value}), pytest.raises(MisconfigurationException, match=words):
        cls().main_port


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "can't be read: No such file"),
        ("launcher\n", "should list the launching node and then at least one host, but has 1 lines"),
        ("launcher\nother\n", "This host, .* is not among .*LSB_DJOB_RANKFILE .other.; start the script by jsrun"),
    ],
)
def test_lsf_says_what_is_wrong_with_its_file_of_hosts(lsf, tmp_path, content, words):
    file = tmp_path / "broken"
    if content is not None:
        file.write_text(content)
    values = {**lsf, "LSB_DJOB_RANKFILE": str(file)}
    with variables(values), pytest.raises(MisconfigurationException, match=words) as caught:
        facts(LSFEnvironment())
    is_one_sentence(caught.value)

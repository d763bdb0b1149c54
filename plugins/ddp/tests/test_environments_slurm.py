"""What only SLURM has: its lists of nodes, and jobs that are run again; its variables are in test_environments.py."""

import logging
import os
import signal
import warnings
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leyden.plugins import SLURMEnvironment
from leyden.utilities import MisconfigurationException


def variables(**values):
    """A block in which the process's environment has these variables only."""
    return mock.patch.dict(os.environ, values, clear=True)


@pytest.fixture(scope="module")
def lightning():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning_fabric.plugins.environments import SLURMEnvironment as Lightning
    return Lightning


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("alpha", "alpha"),
        ("alpha,beta,gamma", "alpha"),
        ("alpha beta gamma", "alpha"),
        ("1.2.3.100, 1.2.3.101", "1.2.3.100"),
        ("node[3-7,9]", "node3"),
        ("node[009-010]", "node009"),
        ("node[5,7-9],other[1-2]", "node5"),
        ("node[7]", "node7"),
        ("host-a[1-2]-ib", "host-a1-ib"),
    ],
)
def test_the_first_node_is_lightning_s(nodes, first, lightning):
    assert SLURMEnvironment.resolve_root_node_address(nodes) == first == lightning.resolve_root_node_address(nodes)


NAME = st.text("abcxyz.-", min_size=1, max_size=5)
NUMBERS = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 5), st.integers(0, 4)).map(
        lambda t: (f"{t[0]:0{t[2]}}", f"{t[0] + t[1]:0{t[2]}}" if t[1] else None)
    ),
    min_size=1,
    max_size=3,
)
PIECES = st.lists(st.tuples(NAME, st.none() | NUMBERS), min_size=1, max_size=3)


def written(pieces):
    """A group of hosts as SLURM writes it."""
    return "".join(
        name + ("" if numbers is None else f"[{','.join(a if b is None else f'{a}-{b}' for a, b in numbers)}]")
        for name, numbers in pieces
    )


@given(st.lists(PIECES, min_size=1, max_size=3), st.sampled_from([",", " ", ", "]))
@example([[("rack", [("1", "2")]), ("n", [("03", "07"), ("9", None)])], [("login", None)]], ",")
def test_the_first_node_of_any_list(groups, separator):
    first = "".join(name + ("" if numbers is None else numbers[0][0]) for name, numbers in groups[0])
    nodes = separator.join(map(written, groups))
    assert SLURMEnvironment.resolve_root_node_address(nodes) == first


@given(st.text("an01[]-, ", max_size=12))
def test_any_text_gives_a_host_name_or_a_sentence(nodes):
    try:
        host = SLURMEnvironment.resolve_root_node_address(nodes)
    except MisconfigurationException:
        return
    assert host
    assert not set(host) & set("[], ")


@pytest.mark.parametrize("nodes", ["node[3-7", "node]", "node[]", "node[3-]", ",node"])
def test_a_broken_list_is_shown(nodes):
    with variables(SLURM_NODELIST=nodes), pytest.raises(MisconfigurationException, match="set MASTER_ADDR") as caught:
        SLURMEnvironment().main_address
    assert repr(nodes) in str(caught.value)


def test_the_step_s_own_nodes_go_before_the_job_s():
    with variables(SLURM_NODELIST="node[1-4]", SLURM_STEP_NODELIST="node[3-4]"):
        assert SLURMEnvironment().main_address == "node3"


@pytest.mark.parametrize(("job", "port"), [("1", 15001), ("9999", 24999), ("10000", 15000), ("123400042", 15042)])
def test_the_port_is_lightning_s_for_any_job(job, port, lightning):
    with variables(SLURM_JOB_ID=job):
        assert SLURMEnvironment().main_port == port
        assert lightning().main_port == port


@pytest.mark.parametrize(
    ("values", "number"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "12"}, 12),
        ({"SLURM_JOB_ID": "twelve"}, None),
        ({"SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "interactive"}, None),
    ],
)
def test_the_job_s_number_and_name_are_lightning_s(values, number, lightning):
    with variables(**values):
        assert SLURMEnvironment.job_id() == number == lightning.job_id()
        assert SLURMEnvironment.job_name() == values.get("SLURM_JOB_NAME") == lightning.job_name()


def test_the_requeue_signal():
    assert SLURMEnvironment().requeue_signal == signal.SIGUSR1
    assert SLURMEnvironment(requeue_signal=signal.SIGUSR2).requeue_signal == signal.SIGUSR2
    assert SLURMEnvironment(auto_requeue=False).requeue_signal is None


@pytest.fixture
def scontrol(tmp_path):
    """Makes a scontrol that notes what it is asked, says something and ends with a status; returns its folder."""

    def make(status=0, says=""):
        program = tmp_path / "scontrol"
        program.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\necho "{says}" >&2\nexit {status}\n')
        program.chmod(0o755)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("values", "job"),
    [
        ({"SLURM_JOB_ID": "12"}, "12"),
        ({"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, "12_3"),
    ],
)
def test_a_job_is_requeued_by_scontrol(scontrol, caplog, monkeypatch, values, job):
    monkeypatch.setattr(logging.getLogger("leyden"), "propagate", True)
    folder = scontrol()
    with variables(PATH=str(folder), **values):
        SLURMEnvironment().requeue()
    assert (folder / "asked").read_text() == f"requeue {job}\n"
    assert f"job {job} is in the queue again" in caplog.text


@pytest.mark.parametrize(
    ("status", "says", "reason"),
    [
        (1, "Requested operation is presently disabled", "Requested operation is presently disabled"),
        (3, "", "status 3"),
    ],
)
def test_a_refused_requeue_is_said(scontrol, status, says, reason):
    words = rf"job 12 was not requeued \(.*{reason}\).*: scontrol requeue 12\."
    with variables(PATH=str(scontrol(status, says)), SLURM_JOB_ID="12"), pytest.warns(UserWarning, match=words):
        SLURMEnvironment().requeue()


def test_a_missing_scontrol_is_said(tmp_path):
    words = r"not requeued \(scontrol can't be run, No such file"
    with variables(PATH=str(tmp_path), SLURM_JOB_ID="12"), pytest.warns(UserWarning, match=words):
        SLURMEnvironment().requeue()


def test_outside_of_a_job_nothing_can_be_requeued():
    with variables(), pytest.raises(MisconfigurationException, match="SLURM_JOB_ID is missing; srun sets it"):
        SLURMEnvironment().requeue()

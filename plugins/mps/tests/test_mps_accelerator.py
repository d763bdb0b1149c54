"""The MPS accelerator: its decisions, on simulated machines, and its work, on a real one."""

import pytest
import torch

import leyden as pl
from leyden.utilities import MisconfigurationException
from leyden_mps.accelerator import MPSAccelerator

needs_mps = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="this machine has no Apple silicon")


@pytest.fixture
def machine(monkeypatch):
    """Simulate a machine with or without such a GPU."""

    def pretend(available, macos=(14, 0)):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: available)
        monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: macos >= (major, minor))
        monkeypatch.setattr(torch.mps, "device_count", lambda: int(available))

    return pretend


@pytest.mark.parametrize("available", [True, False])
def test_it_is_there_where_pytorch_says_so(machine, available):
    machine(available)
    assert MPSAccelerator.is_available() is available
    assert MPSAccelerator.auto_device_count() == int(available)
    assert MPSAccelerator.name() == "mps"


@pytest.mark.parametrize("devices", [1, "1", "auto", -1, [0], "0,"])
def test_there_is_one_device(machine, devices):
    machine(True)
    indices = MPSAccelerator.parse_devices(devices)
    assert indices == [0]
    assert MPSAccelerator.get_parallel_devices(indices) == [torch.device("mps", 0)]


@pytest.mark.parametrize("devices", [0, 2, "2", [1], [0, 1], "many"])
def test_any_other_is_refused(machine, devices):
    machine(True)
    with pytest.raises(MisconfigurationException):
        MPSAccelerator.parse_devices(devices)


@pytest.mark.parametrize(
    ("precision", "macos", "supported"),
    [
        ("32-true", (13, 0), True),
        ("16-mixed", (13, 0), True),
        ("bf16-mixed", (13, 6), False),
        ("bf16-true", (14, 1), True),
        ("64-true", (15, 0), False),
    ],
)
def test_precisions(machine, precision, macos, supported):
    machine(True, macos)
    assert MPSAccelerator().supports_precision(precision) is supported


def test_it_runs_on_mps_alone():
    with pytest.raises(MisconfigurationException, match="was given cpu"):
        MPSAccelerator().setup_device(torch.device("cpu"))


def test_waiting_takes_no_device_and_statistics_are_bytes(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append(True))
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 1)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 3)
    accelerator, device = MPSAccelerator(), torch.device("mps", 0)
    accelerator.synchronize(device)
    assert waited == [True]
    assert accelerator.get_device_stats(device) == {
        "mps_current_allocated_bytes": 1,
        "mps_driver_allocated_bytes": 2,
        "mps_recommended_max_bytes": 3,
    }


def test_users_find_it_in_the_window():
    from leyden import accelerators

    assert accelerators.MPSAccelerator is MPSAccelerator


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has MPS")
def test_a_trainer_without_mps_says_so(tmp_path):
    with pytest.raises(MisconfigurationException, match="'mps' finds no device"):
        pl.Trainer(accelerator="mps", default_root_dir=tmp_path)


@pytest.mark.gpu
@needs_mps
def test_a_real_gpu():
    accelerator, device = MPSAccelerator(), torch.device("mps", 0)
    accelerator.setup_device(device)
    state = accelerator.get_rng_state(device)
    first = torch.rand(4, device=device)
    accelerator.set_rng_state(state, device)
    assert torch.equal(torch.rand(4, device=device).cpu(), first.cpu())
    accelerator.synchronize(device)
    assert accelerator.get_device_stats(device)["mps_current_allocated_bytes"] > 0
    accelerator.teardown()

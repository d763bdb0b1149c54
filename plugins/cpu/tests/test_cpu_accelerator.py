"""The CPU accelerator."""

import sys
from types import SimpleNamespace

import pytest
import torch

from leyden.utilities import MisconfigurationException
from leyden_cpu.accelerator import CPUAccelerator


def test_it_is_always_there():
    assert CPUAccelerator.is_available()
    assert CPUAccelerator.name() == "cpu"
    assert CPUAccelerator.auto_device_count() == 1


@pytest.mark.parametrize(("devices", "count"), [(1, 1), (3, 3), ("2", 2), (" 2 ", 2), ("auto", 1)])
def test_devices_are_processes(devices, count):
    indices = CPUAccelerator.parse_devices(devices)
    assert indices == list(range(count))
    assert CPUAccelerator.get_parallel_devices(indices) == [torch.device("cpu")] * count


@pytest.mark.parametrize("devices", [0, -1, "-1", "0", "0, 1", [0, 1], [0], "all", "", True, 2.0, None])
def test_what_is_no_number_of_processes_is_refused(devices):
    with pytest.raises(MisconfigurationException) as raised:
        CPUAccelerator.parse_devices(devices)
    assert f"devices={devices!r}" in str(raised.value)
    assert "the number of processes, at least 1" in str(raised.value)


def test_it_runs_on_the_cpu_alone():
    accelerator = CPUAccelerator()
    accelerator.setup_device(torch.device("cpu"))
    with pytest.raises(MisconfigurationException, match="was given meta"):
        accelerator.setup_device(torch.device("meta"))


def test_there_is_nothing_to_wait_for_and_nothing_to_free():
    accelerator, device = CPUAccelerator(), torch.device("cpu")
    accelerator.synchronize(device)
    accelerator.teardown()


def test_it_has_no_generator_of_its_own():
    accelerator, device = CPUAccelerator(), torch.device("cpu")
    before = torch.get_rng_state()
    assert accelerator.get_rng_state(device) is None
    accelerator.set_rng_state(torch.zeros_like(before), device)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed"])
def test_it_does_every_precision(precision):
    assert CPUAccelerator().supports_precision(precision)


def test_statistics_come_from_psutil(monkeypatch):
    load = SimpleNamespace(
        virtual_memory=lambda: SimpleNamespace(percent=40.0),
        cpu_percent=lambda: 50.0,
        swap_memory=lambda: SimpleNamespace(percent=60.0),
    )
    monkeypatch.setitem(sys.modules, "psutil", load)
    assert CPUAccelerator().get_device_stats(torch.device("cpu")) == {
        "cpu_vm_percent": 40.0,
        "cpu_percent": 50.0,
        "cpu_swap_percent": 60.0,
    }


def test_without_psutil_statistics_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install leyden-cpu\[stats\]"):
        CPUAccelerator().get_device_stats(torch.device("cpu"))

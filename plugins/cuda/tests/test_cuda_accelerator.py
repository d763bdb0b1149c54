"""The CUDA accelerator: its decisions, on simulated machines, and its work, if this machine has a GPU."""

import os

import pytest
import torch

import leyden as pl
import leyden_cuda
from leyden.utilities import MisconfigurationException
from leyden_cuda.accelerator import CUDAAccelerator

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture
def machine(monkeypatch):
    """Simulate a machine: ``machine(*capabilities, occupied=...)`` has a GPU for each compute capability."""

    def pretend(*capabilities, occupied=()):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[_index(device)])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {_index(device)}")
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)

        def zeros(*size, device):
            if device.index in occupied:
                raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")

        monkeypatch.setattr(torch, "zeros", zeros)

    return pretend


def _index(device):
    return device if isinstance(device, int) else device.index


def test_it_is_there_where_a_gpu_is_visible(machine):
    machine()
    assert not CUDAAccelerator.is_available()
    machine((8, 0))
    assert CUDAAccelerator.is_available()
    assert CUDAAccelerator.name() == "cuda"


@pytest.mark.parametrize(
    ("devices", "indices"),
    [
        (1, [0]),
        (2, [0, 1]),
        (-1, [0, 1, 2, 3]),
        ("auto", [0, 1, 2, 3]),
        ("3", [0, 1, 2]),
        ("3,", [3]),
        ("0, 2", [0, 2]),
        ([3, 1], [3, 1]),
    ],
)
def test_devices(machine, devices, indices):
    machine(*[(9, 0)] * 4)
    assert CUDAAccelerator.parse_devices(devices) == indices
    assert CUDAAccelerator.get_parallel_devices(indices) == [torch.device("cuda", i) for i in indices]


@pytest.mark.parametrize("devices", [0, 3, [2], "1, 2", [0, 0], [], "two", [True]])
def test_devices_that_are_not_there_are_refused(machine, devices):
    machine((9, 0), (9, 0))
    with pytest.raises(MisconfigurationException):
        CUDAAccelerator.parse_devices(devices)


@pytest.mark.parametrize(
    ("capabilities", "precision", "supported"),
    [
        ([(8, 0)], "bf16-mixed", True),
        ([(7, 5)], "bf16-mixed", False),
        ([(7, 5)], "bf16-true", False),
        ([(7, 5), (9, 0)], "bf16-true", True),
        ([(7, 0)], "16-mixed", True),
        ([(6, 1)], "64-true", True),
    ],
)
def test_bfloat16_needs_ampere(machine, capabilities, precision, supported):
    machine(*capabilities)
    assert CUDAAccelerator().supports_precision(precision) is supported


def test_bfloat16_is_left_to_rocm(machine, monkeypatch):
    machine((7, 5))
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert CUDAAccelerator().supports_precision("bf16-mixed")


def test_it_runs_on_cuda_alone():
    with pytest.raises(MisconfigurationException, match="was given cpu"):
        CUDAAccelerator().setup_device(torch.device("cpu"))


@pytest.mark.parametrize(
    ("device", "capability", "precision", "hints"),
    [(10, (8, 0), "highest", 1), (11, (8, 0), "high", 0), (12, (7, 5), "highest", 0)],
)
def test_unused_tensor_cores_are_mentioned_once(machine, monkeypatch, device, capability, precision, hints):
    machine(*[capability] * 13)
    said: list[str] = []
    monkeypatch.setattr("leyden_cuda.accelerator.rank_zero_info", said.append)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    for _ in range(2):
        CUDAAccelerator().setup_device(torch.device("cuda", device))
    assert len(said) == hints
    assert all("set_float32_matmul_precision" in sentence for sentence in said)


@pytest.fixture
def settings(monkeypatch):
    """Restores cuDNN's and cuBLAS's settings after the test."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that a value set by the test is undone too
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    return torch.backends.cudnn


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("deterministic", "benchmark", "after"),
    [(False, None, None), (False, True, True), (False, False, False), (True, None, False), (True, False, False)],
)
def test_benchmark_and_deterministic(settings, before, deterministic, benchmark, after):
    settings.benchmark = before
    CUDAAccelerator().set_options(deterministic=deterministic, benchmark=benchmark)
    assert settings.benchmark is (before if after is None else after)
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if deterministic else None)


def test_a_workspace_that_the_user_chose_is_left(settings, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    CUDAAccelerator().set_options(deterministic=True, benchmark=None)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_benchmark_against_determinism_is_said(settings):
    with pytest.warns(UserWarning, match="runs differ although deterministic is set"):
        CUDAAccelerator().set_options(deterministic=True, benchmark=True)
    assert settings.benchmark is True


def test_users_find_both_in_the_window():
    from leyden import accelerators

    assert accelerators.CUDAAccelerator is CUDAAccelerator
    assert accelerators.find_usable_cuda_devices is leyden_cuda.find_usable_cuda_devices


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_trainer_without_a_gpu_says_so(tmp_path):
    with pytest.raises(MisconfigurationException, match="'cuda' finds no device"):
        pl.Trainer(accelerator="cuda", default_root_dir=tmp_path)


def test_free_devices_are_found(machine):
    machine(*[(9, 0)] * 4, occupied=(0, 2))
    assert leyden_cuda.find_usable_cuda_devices() == [1, 3]
    assert leyden_cuda.find_usable_cuda_devices(1) == [1]
    assert leyden_cuda.find_usable_cuda_devices(2) == [1, 3]
    assert leyden_cuda.find_usable_cuda_devices(0) == []


def test_too_few_free_devices_are_an_error_that_names_them(machine):
    machine(*[(9, 0)] * 3, occupied=(1,))
    with pytest.raises(RuntimeError, match=r"num_devices=3 .*\[0, 2\] can be used now, \[1\] are used"):
        leyden_cuda.find_usable_cuda_devices(3)


@pytest.mark.parametrize(("count", "wanted"), [(0, -1), (0, 1), (2, 3), (2, -2)])
def test_more_devices_than_there_are_is_an_error(machine, count, wanted):
    machine(*[(9, 0)] * count)
    with pytest.raises(ValueError, match=f"num_devices={wanted}"):
        leyden_cuda.find_usable_cuda_devices(wanted)


@pytest.mark.gpu
@needs_gpu
def test_a_real_gpu():
    accelerator, device = CUDAAccelerator(), torch.device("cuda", 0)
    assert 0 in leyden_cuda.find_usable_cuda_devices()
    accelerator.setup_device(device)
    state = accelerator.get_rng_state(device)
    first = torch.rand(4, device=device)
    accelerator.set_rng_state(state, device)
    assert torch.equal(torch.rand(4, device=device), first)
    accelerator.synchronize(device)
    assert accelerator.get_device_stats(device)["allocated_bytes.all.current"] > 0
    accelerator.teardown()

"""The generic accelerator: what follows from a device type alone, whatever PyTorch's module for it has or lacks."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from leyden.accelerators import Accelerator
from leyden.utilities import MisconfigurationException


class MaiaAccelerator(Accelerator):
    device_type = "maia"  # one that PyTorch knows by name, and has no module for


DEVICE = torch.device("maia", 1)


@pytest.fixture(autouse=True)
def _modules_are_looked_up_anew() -> Iterator[None]:
    """PyTorch remembers the module that it found for a device."""
    torch.get_device_module.cache_clear()
    yield
    torch.get_device_module.cache_clear()


def give_module(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    monkeypatch.setattr(torch, "maia", SimpleNamespace(**functions), raising=False)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is called of a module that has everything, for a machine with two devices."""
    calls: list[Any] = []
    state = torch.zeros(3, dtype=torch.uint8)
    give_module(
        monkeypatch,
        is_available=lambda: True,
        device_count=lambda: 2,
        set_device=lambda device: calls.append(("set_device", device)),
        synchronize=lambda device: calls.append(("synchronize", device)),
        empty_cache=lambda: calls.append("empty_cache"),
        memory_stats=lambda device: {"allocated_bytes.all.current": device.index},
        get_rng_state=lambda device: state,
        set_rng_state=lambda state, device: calls.append(("set_rng_state", state.tolist(), device)),
    )
    return calls


def test_everything_follows_from_the_device_type(calls):
    assert MaiaAccelerator.name() == "maia"
    assert MaiaAccelerator.is_available()
    assert MaiaAccelerator.auto_device_count() == 2
    for devices in ("auto", -1, 2, "0, 1"):
        assert MaiaAccelerator.get_parallel_devices(MaiaAccelerator.parse_devices(devices)) == [
            torch.device("maia", 0),
            torch.device("maia", 1),
        ]
    accelerator = MaiaAccelerator()
    accelerator.setup_device(DEVICE)
    accelerator.synchronize(DEVICE)
    accelerator.set_rng_state(accelerator.get_rng_state(DEVICE), DEVICE)
    accelerator.teardown()
    assert calls == [
        ("set_device", DEVICE),
        ("synchronize", DEVICE),
        ("set_rng_state", [0, 0, 0], DEVICE),
        "empty_cache",
    ]
    assert accelerator.get_device_stats(DEVICE) == {"allocated_bytes.all.current": 1}


def uses_it(accelerator: Accelerator) -> None:
    """What a run asks of an accelerator whose device has nothing to do for it."""
    accelerator.set_options(deterministic=True, benchmark=None)
    accelerator.setup_device(DEVICE)
    accelerator.synchronize(DEVICE)
    assert accelerator.get_device_stats(DEVICE) == {}
    assert accelerator.get_rng_state(DEVICE) is None
    accelerator.set_rng_state(torch.zeros(3, dtype=torch.uint8), DEVICE)
    accelerator.teardown()


def test_what_the_module_lacks_the_device_has_not(monkeypatch):
    give_module(monkeypatch, is_available=lambda: True, device_count=lambda: 2)
    uses_it(MaiaAccelerator())


def test_a_device_without_a_module_is_not_there_unless_its_accelerator_says_so():
    class Here(MaiaAccelerator):
        @classmethod
        def is_available(cls) -> bool:
            return True

    assert not MaiaAccelerator.is_available()
    assert MaiaAccelerator.auto_device_count() == 0
    assert Here.parse_devices("auto") == [0]
    uses_it(Here())


def test_a_type_of_which_pytorch_never_heard_is_not_there():
    class Nonsense(Accelerator):
        device_type = "nonsense"

    assert not Nonsense.is_available()


def test_another_device_is_refused(calls):
    with pytest.raises(MisconfigurationException, match=r"^MaiaAccelerator was given cpu; it runs on 'maia' devices"):
        MaiaAccelerator().setup_device(torch.device("cpu"))
    assert calls == []


def test_processes_that_can_not_talk_are_told_what_to_do():
    with pytest.raises(MisconfigurationException, match=r"no backend for the device 'maia'.*strategy='single_device'"):
        MaiaAccelerator.process_group_backend()


def test_a_backend_that_its_author_registered_is_found(monkeypatch):
    backends = {**torch.distributed.Backend.default_device_backend_map, "maia": "mccl"}
    monkeypatch.setattr(torch.distributed.Backend, "default_device_backend_map", backends)
    assert MaiaAccelerator.process_group_backend() == "mccl"

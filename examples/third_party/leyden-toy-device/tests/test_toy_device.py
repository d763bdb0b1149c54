"""The toy alone: PyTorch computes the same on it as on the CPU; and the choice of the toy by a Trainer."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import leyden as pl
from leyden_toy_device.accelerator import ToyAccelerator

MODULES = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), (3, 8)),
    "convolution": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.GELU()), (3, 2, 6, 6)),
    "convolution with bias": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.MaxPool2d(2)), (3, 2, 6, 6)),
    "transposed convolution": (lambda: nn.ConvTranspose2d(2, 3, 3), (3, 2, 5, 5)),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (3, 5, 8)),
    "dropout": (lambda: nn.Dropout(0.5), (30, 8)),
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_computes_and_learns_what_it_does_on_the_host(name):
    make, shape = MODULES[name]
    torch.manual_seed(0)
    host, inputs = make(), torch.randn(shape)
    toy = copy.deepcopy(host).to("toy")
    for module in (host, toy):
        optimizer = torch.optim.AdamW(module.parameters()) if any(True for _ in module.parameters()) else None
        for step in range(3):
            torch.manual_seed(step)
            device = "toy" if module is toy else "cpu"
            module.output = module(inputs.to(device).requires_grad_())
            assert module.output.device.type == device
            module.output.square().mean().backward()
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()
    # PyTorch has a fused operation for attention on the CPU, but uses several operations elsewhere.
    near = {"rtol": 1e-3, "atol": 1e-3} if name == "transformer" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(toy.output.cpu(), host.output, **near)
    torch.testing.assert_close({k: v.cpu() for k, v in toy.state_dict().items()}, dict(host.state_dict()), **near)


def test_a_view_shows_the_memory_of_what_it_views():
    numbers = torch.arange(6.0, device="toy").reshape(2, 3)
    numbers.t()[0].mul_(10)
    assert numbers.tolist() == [[0, 1, 2], [30, 4, 5]]
    numbers[numbers > 4] = -1
    assert numbers.tolist() == [[0, 1, 2], [-1, 4, -1]]
    torch.add(numbers, 1, out=numbers)
    assert numbers[0].tolist() == [1, 2, 3]


def test_a_result_goes_into_the_memory_that_is_given_for_it():
    whole = torch.zeros(2, 3, device="toy")
    torch.add(torch.ones(3, device="toy"), 1, out=whole[1])
    assert whole.tolist() == [[0, 0, 0], [2, 2, 2]]


def test_a_random_state_of_the_host_is_the_toys():
    torch.manual_seed(3)
    drawn = torch.rand(4, device="toy").cpu()
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4))


def test_it_is_saved_and_loaded_to_the_host(tmp_path):
    whole = torch.arange(6.0, device="toy").reshape(2, 3)
    torch.save({"whole": whole, "row": whole[1], "other way": whole.t()}, tmp_path / "file")
    loaded = torch.load(tmp_path / "file", map_location="cpu", weights_only=True)
    assert {tensor.device.type for tensor in loaded.values()} == {"cpu"}
    assert loaded["whole"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert loaded["row"].tolist() == [3, 4, 5]
    assert torch.equal(loaded["other way"], loaded["whole"].t())


def test_users_import_the_class_from_the_window():
    from leyden.accelerators import ToyAccelerator as found

    assert found is ToyAccelerator


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"precision": "bf16-mixed"}, "'bf16-mixed' can't be computed by the accelerator 'toy'"),
        ({"precision": "16-mixed"}, "'16-mixed' can't be computed by the accelerator 'toy'"),
        ({"devices": 2}, "devices=2 asks for toy device 1"),
    ],
)
def test_what_it_can_not_do_is_refused(tmp_path, arguments, sentence):
    from leyden.utilities import MisconfigurationException

    with pytest.raises(MisconfigurationException, match=sentence):
        pl.Trainer(accelerator="toy", default_root_dir=tmp_path, **arguments)


def printed(script, **environ):
    """Run a script in a new process and return its output."""
    command = [sys.executable, "-W", "error", "-c", f"import torch; {script}"]
    result = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else result.stderr.strip().splitlines()[-1]


CHOSEN = "import leyden as pl; print(pl.Trainer(accelerator={!r}, logger=False).strategy.root_device)"


@pytest.mark.parametrize(
    ("accelerator", "environ", "device"),
    [
        ("auto", {}, "cpu"),
        ("auto", {"LEYDEN_TOY_FIRST": "1"}, "toy:0"),
        ("cpu", {"LEYDEN_TOY_FIRST": "1"}, "cpu"),
        ("toy", {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}, "toy:0"),
    ],
)
def test_auto_takes_it_where_it_is_said_to_be_the_best(accelerator, environ, device):
    if device == "cpu" and torch.cuda.is_available():
        pytest.skip("this machine has a device with a higher priority")
    assert printed(CHOSEN.format(accelerator), **{"LEYDEN_TOY_FIRST": "0", **environ}) == device


def test_where_another_device_has_the_place_that_is_said():
    script = f"torch.utils.rename_privateuse1_backend('other'); {CHOSEN.format('toy')}"
    assert "in this process 'other' uses it" in printed(script, TORCH_DEVICE_BACKEND_AUTOLOAD="0")

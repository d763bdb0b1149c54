"""``to_onnx`` and ``to_torchscript``: onnxruntime and ``torch.jit`` must compute the same as the module itself."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

import leyden as pl
import leyden_export
from leyden_testing.fake_plugins import new_plugin_site
from leyden_testing.training import quiet_trainer

# Warnings of PyTorch about TorchScript and in its ONNX exporter; one test checks that users see them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec:FutureWarning"),
    pytest.mark.filterwarnings(
        "ignore:This property will be removed in 2:DeprecationWarning"
    ),  # it reads all properties
]


class Net(pl.LightningModule):
    """A module with more than ``forward``: dropout, hyperparameters, a metric, a property, hooks."""

    def __init__(self, width: int = 8, callback: Any = print) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="callback")
        self.callback = callback
        self.body = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.5))
        self.head = nn.Linear(width, 2)
        self.mean = MeanMetric()

    @property
    def scale(self) -> float:
        return 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)) * self.scale

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self(batch[0]).square().mean()
        self.log("loss", self.mean(loss))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Pair(pl.LightningModule):
    """A module with two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layer(x) - 3 * y


class Placed(Net):
    """Makes a tensor on the module's device, and doubles its inputs when they are transferred there."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.ones(2, device=self.device) * self.global_step

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch * 2


def fitted(model: Net, root: Path) -> Net:
    trainer = quiet_trainer(root, logger="csv", log_every_n_steps=1)
    trainer.fit(model, DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 3)), batch_size=4))
    assert model.trainer is trainer
    return model


def expected(model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    modes = {part: part.training for part in model.modules()}
    with torch.no_grad():
        output: Tensor = model.eval()(*args, **kwargs)
    for part, mode in modes.items():
        part.training = mode
    return output


def in_onnxruntime(file: Path, *inputs: Tensor) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    named = {given.name: value.numpy() for given, value in zip(session.get_inputs(), inputs, strict=True)}
    output = session.run(None, named)[0]
    assert isinstance(output, np.ndarray)
    return torch.from_numpy(output)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-5)


# -- ONNX ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_fit", [False, True])
def test_onnx_is_the_module_in_evaluation_for_any_batch_size(tmp_path, after_fit):
    model = fitted(Net(), tmp_path) if after_fit else Net()
    model.train()
    model.body[1].eval()
    model.to_onnx(tmp_path / "net.onnx", torch.randn(4, 3), dynamic_shapes={"x": {0: "batch"}})
    for size in (1, 7):
        x = torch.randn(size, 3)
        assert close(in_onnxruntime(tmp_path / "net.onnx", x), expected(model, x))
    assert model.training
    assert [part.training for part in model.body] == [True, False, True]


def test_onnx_by_the_older_exporter(tmp_path):
    model, x = Net(), torch.randn(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the older exporter is deprecated
        returned = model.to_onnx(
            tmp_path / "net.onnx", x, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}}
        )
    assert returned is None
    assert close(in_onnxruntime(tmp_path / "net.onnx", x[:2]), expected(model, x[:2]))


@pytest.mark.parametrize("kind", ["tuple", "list", "dict"])
def test_onnx_of_several_inputs(tmp_path, kind):
    model, x, y = Pair(), torch.randn(4, 3), torch.randn(4, 2)
    model.example_input_array = {"tuple": (x, y), "list": [x, y], "dict": {"x": x, "y": y}}[kind]
    program = model.to_onnx(tmp_path / "pair.onnx")
    assert [value.name for value in program.model.graph.inputs] == ["x", "y"]
    x, y = torch.randn(4, 3), torch.randn(4, 2)
    assert close(in_onnxruntime(tmp_path / "pair.onnx", x, y), expected(model, x, y))


def test_onnx_without_a_file_is_returned():
    model, x = Net(), torch.randn(4, 3)
    program = model.to_onnx(input_sample=x)
    with io.BytesIO() as file:
        file.write(program.model_proto.SerializeToString())
        session = onnxruntime.InferenceSession(file.getvalue())
    assert close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), expected(model, x))


def test_onnx_says_which_package_is_missing(tmp_path):
    script = (
        "import sys, torch, leyden as pl; sys.modules['onnxscript'] = None\n"
        "class Net(pl.LightningModule):\n    def forward(self, x): return x\n"
        "Net().to_onnx('net.onnx', torch.ones(1))"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    last = result.stderr.strip().splitlines()[-1]
    assert last == "ModuleNotFoundError: to_onnx needs the package onnxscript: pip install onnx onnxscript."


def test_onnx_keeps_another_missing_module_s_own_error():
    class Needy(Net):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch

        def eval(self):
            importlib.import_module("no_such_module")

    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_module'$"):
        Needy().to_onnx(input_sample=torch.ones(1, 3))


# -- TorchScript ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_fit", [False, True])
@pytest.mark.parametrize("method", ["script", "trace"])
def test_torchscript_saved_and_loaded_is_the_module(tmp_path, method, after_fit):
    model = fitted(Net(), tmp_path) if after_fit else Net()
    model.example_input_array = torch.randn(4, 3)
    model.train()
    model.body[1].eval()
    script = model.to_torchscript(tmp_path / "net.pt", method=method)
    loaded = torch.jit.load(tmp_path / "net.pt")
    x = torch.randn(6, 3)
    assert torch.equal(script(x), expected(model, x))
    assert torch.equal(loaded(x), expected(model, x))
    assert not loaded.training
    assert model.training
    assert [part.training for part in model.body] == [True, False, True]
    assert getattr(script, "_trainer", None) is None


def test_torchscript_has_what_the_user_exports():
    class Exporting(Net):
        @torch.jit.export
        def doubled(self, x: Tensor) -> Tensor:
            return self(x) * 2

    class Outer(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Exporting()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner.doubled(x)

    model, x = Outer(), torch.randn(2, 3)
    script = model.to_torchscript()
    assert torch.equal(script(x), expected(model, x))
    assert torch.equal(script.inner.doubled(x), script(x))


@pytest.mark.parametrize("kind", ["tuple", "list", "dict"])
def test_a_trace_of_several_inputs(kind):
    model, x, y = Pair(), torch.randn(4, 3), torch.randn(4, 2)
    example = {"tuple": (x, y), "list": [x, y], "dict": {"x": x, "y": y}}[kind]
    script = model.to_torchscript(method="trace", example_inputs=example)
    x, y = torch.randn(4, 3), torch.randn(4, 2)
    assert torch.equal(script(x, y), expected(model, x, y))


@pytest.mark.parametrize("after_fit", [False, True])
def test_a_trace_runs_forward_as_ever(tmp_path, after_fit):
    model, x = Placed(), torch.randn(4, 3)
    if after_fit:
        fitted(model, tmp_path)
    script = model.to_torchscript(method="trace", example_inputs=x)
    assert torch.equal(script(x), expected(model, x))
    assert model.global_step == 2 * after_fit


def test_torchscript_at_a_url():
    model, x = Net(), torch.randn(2, 3)
    model.to_torchscript("memory://exports/net.pt")
    fsspec = importlib.import_module("fsspec")
    with fsspec.open("memory://exports/net.pt", "rb") as file:
        assert torch.equal(torch.jit.load(io.BytesIO(file.read()))(x), expected(model, x))


def test_a_forward_that_torchscript_can_t_compile_leaves_the_module_as_it_was():
    class Unscriptable(Net):
        def forward(self, x):
            return self.callback(x)

    model = Unscriptable()
    with pytest.raises(RuntimeError, match="has no attribute 'callback'"):
        model.to_torchscript()
    assert model.training
    with pytest.raises(RuntimeError, match="not attached"):
        _ = model.trainer


# -- both ----------------------------------------------------------------------------------------------------


def test_an_example_goes_through_the_hooks_of_a_transfer_as_in_lightning():
    def run(library: ModuleType) -> list[Any]:
        calls: list[Any] = []

        class Hooked(library.LightningModule):  # type: ignore[name-defined,misc]
            def forward(self, x):
                return x + 1

            def on_before_batch_transfer(self, batch, dataloader_idx):
                calls.append(("before", type(batch), dataloader_idx))
                return batch[0] if isinstance(batch, tuple) else batch

            def transfer_batch_to_device(self, batch, device, dataloader_idx):
                calls.append(("transfer", type(batch), device, dataloader_idx))
                return batch

            def on_after_batch_transfer(self, batch, dataloader_idx):
                calls.append(("after", type(batch), dataloader_idx))
                return batch

        model = Hooked()
        model.to_torchscript(method="trace", example_inputs=torch.ones(2), check_inputs=[(torch.zeros(2),)])
        model.to_onnx(input_sample=(torch.ones(2),))
        return calls

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's import
        lightning = importlib.import_module("pytorch_lightning")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning warns that to_torchscript is deprecated
        expected_calls = run(lightning)
    assert len(expected_calls) == 9
    assert run(pl) == expected_calls


def test_the_data_module_s_hooks_come_first(tmp_path):
    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(torch.utils.data.TensorDataset(torch.randn(4, 3)), batch_size=2)

        def on_before_batch_transfer(self, batch, dataloader_idx):
            seen.append(batch)
            return batch

    seen: list[Any] = []
    model, x = Net(), torch.randn(1, 3)
    quiet_trainer(tmp_path, limit_train_batches=2).fit(model, datamodule=Data())
    seen.clear()
    model.to_torchscript(method="trace", example_inputs=x)
    assert seen == [x]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda model: model.to_onnx("net.onnx"),
            r"to_onnx needs an example input: .* input_sample=.*example_input_array",
        ),
        (lambda model: model.to_torchscript(method="trace"), r"needs an example .* example_inputs=.*_input_array"),
        (lambda model: model.to_torchscript(method="tracing"), r"method='tracing'.*'script' or 'trace'"),
    ],
)
def test_what_is_missing_or_wrong_is_said(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call(Net())
    assert "\n" not in str(caught.value)


def test_pytorch_s_warnings_reach_the_user_and_there_are_no_others(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Net().to_torchscript(tmp_path / "net.pt")
    assert any("torch.jit.script` is deprecated" in str(warning.message) for warning in caught)
    ours = {Path(module.__file__ or "").parent for module in (pl, leyden_export)}
    assert not [warning for warning in caught if ours.intersection(Path(warning.filename).parents)]


def test_a_third_party_brings_another_exporter(tmp_path):
    with new_plugin_site(tmp_path / "site") as site:
        source = """
        @hookimpl
        def leyden_components():
            yield Component("exporter", "names", "acme_names:to_names")
        """
        site.add("acme-names", source)
        site.module("acme_names", "def to_names(module, file): file.write_text(' '.join(module.state_dict()))")
        from leyden import exporters

        assert {"names", "onnx", "torchscript"} <= set(dir(exporters))
        exporters.names(Pair(), tmp_path / "names.txt")
    assert (tmp_path / "names.txt").read_text() == "layer.weight layer.bias"


def test_the_exporters_by_name_are_those_of_the_methods(tmp_path):
    from leyden import exporters

    model, x = Net(), torch.randn(2, 3)
    assert torch.equal(exporters.torchscript(model)(x), expected(model, x))

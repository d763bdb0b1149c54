"""Each precision: its names, the dtypes of modules, batches and steps, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchmetrics import SumMetric

import leyden as pl
from leyden.accelerators import CPUAccelerator
from leyden.plugins import DoublePrecision, HalfPrecision, MixedPrecision
from leyden.utilities import MisconfigurationException

TRUE = {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}
MIXED = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
FLOAT32 = torch.float32


@pytest.mark.parametrize(
    ("value", "name", "kind"),
    [
        (16, "16-mixed", MixedPrecision),
        ("16", "16-mixed", MixedPrecision),
        ("16-mixed", "16-mixed", MixedPrecision),
        ("bf16", "bf16-mixed", MixedPrecision),
        ("bf16-mixed", "bf16-mixed", MixedPrecision),
        ("16-true", "16-true", HalfPrecision),
        ("bf16-true", "bf16-true", HalfPrecision),
        (64, "64-true", DoublePrecision),
        ("64", "64-true", DoublePrecision),
        ("64-true", "64-true", DoublePrecision),
    ],
)
def test_names(trainer, value, name, kind):
    made = trainer(precision=value)
    assert (made.precision, type(made.precision_plugin)) == (name, kind)
    assert (made.scaler is not None) is (name == "16-mixed")


@pytest.mark.parametrize("plugin", [MixedPrecision("bf16-mixed"), HalfPrecision("bf16-true"), "64-true"])
def test_as_a_plugin(trainer, plugin):
    assert trainer(plugins=plugin).precision == (plugin if isinstance(plugin, str) else plugin.precision)


@pytest.fixture
def Watching(Model):
    """A model that keeps, for each step, the dtypes of its inputs, products, new tensors and weights."""

    class Watching(Model):
        def __init__(self):
            super().__init__()
            self.seen = {}
            self.register_buffer("scale", torch.ones(1))
            self.register_buffer("count", torch.zeros(1, dtype=torch.long))
            self.register_buffer("phase", torch.zeros(1, dtype=torch.complex64))

        def forward(self, x):
            output = self.layers(x * self.scale)
            formats = (x.dtype, output.dtype, torch.ones(1).dtype, self.layers[0].weight.dtype, self.scale.dtype)
            self.seen.setdefault(self.trainer.state.stage.value, set()).add(formats)
            assert (self.count.dtype, self.phase.dtype) == (torch.long, torch.complex64)
            return output

        def validation_step(self, batch):
            self.log("val_loss", self.loss(batch))

        def test_step(self, batch):
            self.log("test_loss", self.loss(batch))

    return Watching


def run_all(trainer, model, loader):
    trainer.fit(model, loader, loader)
    trainer.validate(model, loader, verbose=False)
    trainer.test(model, loader, verbose=False)
    return trainer.predict(model, loader)


STAGES = {"sanity_check", "train", "validate", "test", "predict"}


@pytest.mark.parametrize("name", TRUE)
def test_lazy_modules_get_the_format_when_they_get_their_shapes(device, trainer, Watching, loader, name):
    model = Watching()
    model.layers = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.Linear(8, 2))
    weight, model.total = model.layers[0].weight, SumMetric()
    run_all(trainer(device, precision=name), model, loader)
    assert model.seen == {stage: {(TRUE[name],) * 5} for stage in STAGES}
    assert {tensor.dtype for tensor in model.layers.state_dict().values()} == {TRUE[name], torch.int64}
    assert model.layers[0].weight is weight
    assert model.total.sum_value.dtype == FLOAT32


@pytest.mark.parametrize("name", TRUE)
def test_in_the_true_modes_everything_has_the_format(device, trainer, Watching, loader, name):
    dtype, model = TRUE[name], Watching()
    predictions = run_all(trainer(device, precision=name), model, loader)
    assert model.seen == {stage: {(dtype,) * 5} for stage in STAGES}
    assert {p.dtype for p in predictions} == {model.dtype} == {dtype}
    assert torch.get_default_dtype() is FLOAT32


@pytest.mark.parametrize("name", MIXED)
def test_in_the_mixed_modes_products_have_the_format(device, trainer, Watching, loader, name):
    formats, model = (FLOAT32, MIXED[name], FLOAT32, FLOAT32, FLOAT32), Watching()
    run_all(trainer(device, precision=name), model, loader)
    assert model.seen == {stage: {formats} for stage in STAGES}
    assert not torch.is_autocast_enabled(device)


def test_in_a_batch_only_floats_are_cast(trainer, Model):
    class Nested(Model):
        def training_step(self, batch):
            formats = (batch["x"].dtype, batch["more"][0].dtype, batch["more"][1].dtype, batch["name"])
            assert formats == (torch.float64, torch.float64, torch.long, ["row"])

    rows = [{"x": torch.rand(4), "more": (torch.rand(2), torch.tensor(1)), "name": "row"}]
    with pytest.warns(match="returned None"):
        trainer(precision="64-true").fit(Nested(), torch.utils.data.DataLoader(rows))


def test_configure_model_builds_in_the_format(trainer, Model, loader):
    class Late(Model):
        def __init__(self):
            super().__init__()
            self.layers = None

        def configure_model(self):
            self.layers = nn.Linear(4, 2)
            assert self.layers.weight.dtype is torch.float64

    trainer(precision="64-true").fit(Late(), loader)


@pytest.mark.parametrize("name", ["64-true", "bf16-mixed"])
def test_a_step_that_fails_leaves_no_format_behind(trainer, Model, loader, name):
    class Failing(Model):
        def training_step(self, batch):
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        trainer(precision=name).fit(Failing(), loader)
    assert torch.get_default_dtype() is FLOAT32
    assert not torch.is_autocast_enabled("cpu")


def test_what_is_logged_does_not_overflow_float16(trainer, Model, loader):
    class Logging(Model):
        def __init__(self):
            super().__init__()
            self.total = SumMetric()

        def training_step(self, batch):
            self.total.update(60_000.0)
            large = torch.tensor(60_000.0)
            assert large.dtype is torch.float16
            self.log_dict({"mean": large, "number": 100_000.0, "whole": torch.tensor(100_000)}, on_epoch=True)
            self.log("sum", large, on_step=False, on_epoch=True, reduce_fx="sum")
            self.log("total", self.total, on_step=False, on_epoch=True)
            return self.loss(batch)

    made = trainer(precision="16-true", max_epochs=1)
    made.fit(Logging(), loader)
    metrics = {name: value.item() for name, value in made.callback_metrics.items()}
    assert (metrics["mean_epoch"], metrics["sum"]) == (60_000.0, 360_000.0)
    assert (metrics["number_epoch"], metrics["whole_epoch"]) == (100_000.0, 100_000.0)
    assert metrics["total"] == 360_000.0


class Bfloat16Device(CPUAccelerator):
    def supports_precision(self, precision):
        return precision.startswith(("32", "bf16"))


def test_a_mode_that_the_device_cannot_do_is_refused_with_those_that_it_can(trainer):
    with pytest.raises(MisconfigurationException) as raised:
        trainer(accelerator=Bfloat16Device(), precision="16-mixed")
    assert "'16-mixed' can't be computed by the accelerator 'cpu'" in str(raised.value)
    assert "it can: 32-true, bf16-mixed, bf16-true." in str(raised.value)


class NoAutocast(CPUAccelerator):
    device_type = "meta"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: MixedPrecision("16-true"), "'16-true'"),
        (lambda: HalfPrecision("16-mixed"), "'16-mixed'"),
        (lambda: MixedPrecision("bf16-mixed", "cpu", torch.amp.GradScaler("cpu")), "leave the scaler out"),
        (lambda: pl.Trainer(accelerator="cpu", plugins=MixedPrecision("bf16-mixed", "cuda")), "'cuda'.*'cpu'"),
        (lambda: pl.Trainer(accelerator=NoAutocast(), precision="bf16-mixed"), "no autocast for the device 'meta'"),
        (lambda: pl.Trainer(accelerator="cpu", precision="bf16-mixd"), "Did you mean 'bf16-mixed'"),
        (lambda: pl.Trainer(accelerator="cpu", precision=32, plugins=HalfPrecision()), "give one"),
    ],
)
def test_what_can_not_work_is_refused(make, expected):
    with pytest.raises((ValueError, MisconfigurationException), match=expected):
        make()

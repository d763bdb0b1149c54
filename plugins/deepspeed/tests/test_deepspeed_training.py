"""DeepSpeed's engine on two processes of the host: the weights of one process on the same global batch."""

import importlib.util
import os
import warnings
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from leyden.plugins import discover
from leyden.utilities.exceptions import MisconfigurationException
from leyden_ddp.strategy import DDPStrategy
from leyden_deepspeed.strategy import DeepSpeedStrategy
from leyden_testing.training import loader, same_weights

from .deepspeed_model import BuiltLater, Model, quiet, together

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed; make test-deepspeed"
    ),
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # DeepSpeed calls what PyTorch has renamed
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
OFFLOADED = {"offload_optimizer": True}
STAGES = {
    "0": {"zero_optimization": False},
    "1": {"stage": 1},
    "2": {"stage": 2},
    "3": {"stage": 3},
    "1 offload": {"stage": 1, **OFFLOADED},
    "2 offload": {"stage": 2, **OFFLOADED},
    "3 offload": {"stage": 3, "offload_parameters": True, **OFFLOADED},
}
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
SGD_PLAIN = partial(torch.optim.SGD, lr=0.1)


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """Forked processes would each import it, and its first use on a host builds its communication for a minute."""
    before = os.environ.get("DS_ACCELERATOR")
    os.environ["DS_ACCELERATOR"] = "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed  # noqa: F401
    yield
    if before is None:
        del os.environ["DS_ACCELERATOR"]


def fitted(tmp_path, strategy, model=None, rows=16, **options):
    model = model if model is not None else Model()
    trainer = together(tmp_path, strategy, **options)
    trainer.fit(model, loader(rows), loader(6))
    return model, trainer


def alone(tmp_path, model=None, rows=16, **options):
    """The same in one process, whose batches are those of both."""
    model = model if model is not None else Model()
    trainer = quiet(tmp_path, devices=1, **options)
    trainer.fit(model, loader(rows, 4), loader(6, 4))
    return model, trainer


@pytest.mark.parametrize("stage", STAGES)
def test_the_weights_are_those_of_one_process(tmp_path, stage):
    model, trainer = fitted(tmp_path, STAGES[stage])
    expected, single = alone(tmp_path / "alone")
    assert same_weights(model, expected, 1e-6)
    assert not same_weights(model, Model(), 0.01)
    assert trainer.global_step == single.global_step == 8
    for name in ("train_loss", "val_loss"):
        assert float(trainer.callback_metrics[name]) == pytest.approx(float(single.callback_metrics[name]), rel=1e-5)
    shapes = {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    assert shapes == {name: (value.shape, value.dtype) for name, value in Model().state_dict().items()}


@pytest.mark.parametrize("stage", ["0", "1", "2", "3", "2 offload", "3 offload"])
def test_accumulated_and_clipped(tmp_path, stage):
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}
    model, trainer = fitted(tmp_path, STAGES[stage], Model(SGD), rows=12, **options)
    expected, single = alone(tmp_path / "alone", Model(SGD), rows=12, **options)
    assert same_weights(model, expected, 1e-6)
    assert not same_weights(model, alone(tmp_path / "other", Model(SGD), rows=12)[0], 1e-3)
    assert trainer.global_step == single.global_step == 4  # three batches an epoch: the last is stepped on alone


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("stage", ["1", "2", "3"])
def test_sixteen_bits(tmp_path, stage, precision):
    model, _ = fitted(tmp_path, STAGES[stage], precision=precision)
    expected, _ = alone(tmp_path / "alone")
    assert same_weights(model.float(), expected, 2e-2)
    assert not same_weights(model, expected)
    assert not same_weights(model, Model(), 0.05)


@pytest.mark.parametrize(("stage", "twin"), [("1", "zero_1"), ("2", "zero_2"), ("3", "zero_3")])
def test_the_weights_are_those_of_the_native_twin(tmp_path, stage, twin):
    pytest.importorskip("leyden_sharded")
    model, _ = fitted(tmp_path, STAGES[stage], gradient_clip_val=0.5)
    strategy = discover().component("strategy", twin).build(start_method="fork")
    other = Model()
    trainer = quiet(tmp_path / "twin", devices=2, strategy=strategy, gradient_clip_val=0.5)
    trainer.fit(other, loader(16), loader(6))
    assert same_weights(model, other, 1e-6)
    assert trainer.global_step == 8


class Fewer(IterableDataset):
    """Rows of which rank 1 has fewer."""

    def __iter__(self):
        rank = torch.distributed.get_rank()
        generator = torch.Generator().manual_seed(rank)
        rows = [torch.randn(6, generator=generator) for _ in range(5 - 2 * rank)]
        return ((row[:4], row[4:]) for row in rows)


@pytest.mark.parametrize("stage", ["2", "3"])
def test_ranks_with_fewer_batches_join_as_under_ddp(tmp_path, stage):
    models = {}
    for name, strategy in {
        "deepspeed": DeepSpeedStrategy(start_method="fork", uneven_inputs="join", **STAGES[stage]),
        "ddp": DDPStrategy(start_method="fork", uneven_inputs="join"),
    }.items():
        models[name] = Model(SGD)
        trainer = quiet(tmp_path / name, devices=2, strategy=strategy)
        trainer.fit(models[name], DataLoader(Fewer(), 1), loader(4))
        assert trainer.global_step == 10
    assert same_weights(models["deepspeed"], models["ddp"], 1e-6)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_stage_3_builds_in_parts(tmp_path, precision):
    class Looking(BuiltLater):
        def on_fit_start(self):
            assert self.layers[0].weight.ds_tensor.numel() < self.layers[0].weight.ds_numel

    model, trainer = fitted(tmp_path, STAGES["3"], Looking(), precision=precision)
    expected, _ = alone(tmp_path / "alone")
    assert same_weights(model, expected, 1e-6 if precision == "32-true" else 2e-2)
    trained = model.state_dict()
    results = trainer.test(model, loader(6), verbose=False)
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    assert results[0]["test_loss"] == pytest.approx(
        quiet(tmp_path, devices=1).test(model, loader(6, 6), verbose=False)[0]["test_loss"], rel=1e-2
    )


@pytest.mark.filterwarnings("ignore:configure_optimizers returned None")
def test_optimizer_and_scheduler_of_deepspeeds_own(tmp_path):
    config = {
        "zero_optimization": {"stage": 2},
        "optimizer": {"type": "AdamW", "params": {"lr": 0.05, "weight_decay": 0.01, "torch_adam": True}},
        "scheduler": {"type": "WarmupLR", "params": {
            "warmup_min_lr": 0.0, "warmup_max_lr": 0.05, "warmup_num_steps": 5, "warmup_type": "linear"}},
    }  # fmt: skip

    class Watching(Model):
        def on_train_epoch_end(self):
            (rate,) = {group["lr"] for group in self.trainer.optimizers[0].param_groups}
            self.log("rate", rate)

    model, trainer = fitted(tmp_path, {"config": config}, Watching(lambda parameters: None), max_epochs=1)
    assert trainer.global_step == 4
    # DeepSpeed's own count of steps begins at -1
    assert float(trainer.callback_metrics["rate"]) == pytest.approx(0.03)
    assert not same_weights(model, Model(), 0.01)


class ByHand(Model):
    """Manual optimisation."""

    def __init__(self, *args):
        super().__init__(*args)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


@pytest.mark.parametrize("stage", ["2", "3"])
def test_manual_optimisation(tmp_path, stage):
    model, trainer = fitted(tmp_path, STAGES[stage], ByHand())
    expected, _ = alone(tmp_path / "alone", ByHand())
    assert same_weights(model, expected, 1e-6)
    assert trainer.global_step == 8


def test_hooks_and_a_step_of_the_users_own(tmp_path):
    called = []

    class Warming(Model):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (batch_idx + 1)
            optimizer.step(closure=optimizer_closure)

        def on_before_backward(self, loss):
            called.append("before backward")

        def on_after_backward(self):
            called.append("after backward")

        def on_before_optimizer_step(self, optimizer):
            called.append("before step")

        def on_train_end(self):
            assert called == ["before backward", "after backward", "before step"] * 8

    model, _ = fitted(tmp_path, STAGES["2"], Warming())
    called.clear()
    assert same_weights(model, alone(tmp_path / "alone", Warming())[0], 1e-6)


class Skipping(Model):
    def training_step(self, batch, batch_idx):
        return None


class Clipping(Model):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
        raise AssertionError


class ClippingByHand(ByHand):
    def training_step(self, batch, batch_idx):
        self.manual_backward(self.loss(batch))
        self.clip_gradients(self.optimizers(), 1.0)


def two(parameters):
    return [torch.optim.SGD(parameters[:1], lr=0.1), torch.optim.SGD(parameters[1:], lr=0.1)]


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        (Skipping(), None, "training_step returned None to skip the batch"),
        (Clipping(), None, "Clipping overrides configure_gradient_clipping"),
        (ClippingByHand(), None, "clip_gradients finds no gradients"),
        (ByHand(two), None, "needs exactly one optimizer.* there are 2: SGD, SGD"),
        (Model(), {"optimizer": {"type": "AdamW"}}, "there are 2: AdamW, that of its config"),
        (Model(), {"train_micro_batch_size_per_gpu": 7}, "gpu=7, but the loader's batch_size is 2"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Model) else "",
)
def test_what_the_engine_can_not_do_is_said(tmp_path, model, config, message):
    with pytest.raises(MisconfigurationException, match=message):
        fitted(tmp_path, {"config": config} if config else STAGES["2"], model)


def test_a_second_fit_goes_on_with_the_weights_of_the_first(tmp_path):
    model, _ = fitted(tmp_path, STAGES["3"], Model(SGD_PLAIN), max_epochs=1)
    fitted(tmp_path, STAGES["2"], model, max_epochs=1)
    expected, _ = alone(tmp_path / "alone", Model(SGD_PLAIN), max_epochs=1)
    alone(tmp_path / "alone", expected, max_epochs=1)
    assert same_weights(model, expected, 1e-6)

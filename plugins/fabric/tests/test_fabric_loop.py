"""One process: Fabric's loop does what plain PyTorch does, and what Lightning's Fabric does, to the last bit."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from leyden.fabric import Fabric
from leyden.strategies import Strategy
from leyden.utilities.exceptions import MisconfigurationException
from leyden_precision.mixed import MixedPrecision
from leyden_testing.training import same_weights, weights

from .fabric_loop import by_hand, network, rows, train

CASES = {
    "SGD": {},
    "Adam": {"optimizer": "Adam"},
    "clipped by norm": {"clip": {"max_norm": 0.1}},
    "clipped by value": {"optimizer": "Adam", "clip": {"clip_val": 0.01}},
    "accumulated": {"every": 2, "clip": {"max_norm": 0.1}},
    "shuffled": {"shuffle": True},
}


def their_fabric(**options):
    from lightning_fabric import Fabric as Theirs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Theirs(accelerator="cpu", **options)


@pytest.mark.parametrize("case", CASES)
def test_the_loop_is_the_one_of_plain_pytorch(case):
    ours, plain = train(Fabric(accelerator="cpu"), CASES[case]), by_hand(CASES[case])
    assert ours["losses"] == plain["losses"]
    assert same_weights(ours["weights"], plain["weights"])
    assert not same_weights(ours["weights"], weights(network()))


@pytest.mark.parametrize("case", CASES)
def test_the_loop_is_lightnings(case):
    ours, theirs = train(Fabric(accelerator="cpu"), CASES[case]), train(their_fabric(), CASES[case])
    assert ours["losses"] == theirs["losses"]
    assert same_weights(ours["weights"], theirs["weights"])


@pytest.mark.parametrize("precision", [None, 32, "64-true", 64, "bf16-mixed", "bf16-true", "16-true"])
def test_every_precision_is_lightnings(precision):
    options = {"clip": {"max_norm": 0.5}}
    ours = train(Fabric(accelerator="cpu", precision=precision), options)
    theirs = train(their_fabric(precision=precision), options)
    assert ours["losses"] == theirs["losses"]
    assert same_weights(ours["weights"], theirs["weights"])


class Probe(nn.Module):
    """Remembers the type that it computed in."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x, *, twice=False):
        out = self.layer(x)
        self.inner = out.dtype
        return {"out": out, "count": torch.tensor(1)} if twice else out


@pytest.mark.parametrize(
    ("precision", "computed", "kept"),
    [
        ("32-true", torch.float32, torch.float32),
        ("64-true", torch.float64, torch.float64),
        ("bf16-mixed", torch.bfloat16, torch.float32),
        ("16-mixed", torch.float16, torch.float32),
        ("bf16-true", torch.bfloat16, torch.bfloat16),
    ],
)
def test_forward_computes_in_the_format_and_returns_in_pytorchs(precision, computed, kept):
    model = Fabric(accelerator="cpu", precision=precision).setup(Probe())
    results = model(torch.ones(3, 4), twice=True)
    assert (model.inner, results["out"].dtype, results["count"].dtype) == (computed, torch.float32, torch.int64)
    assert model.dtype == kept


class TestScaler:
    def test_the_loss_is_scaled_and_the_step_sees_gradients_as_they_are(self):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        fabric = Fabric(accelerator="cpu", plugins=[MixedPrecision("16-mixed", scaler=scaler)])
        model, optimizer = fabric.setup(module := network(), torch.optim.SGD(module.parameters(), lr=1.0))
        x = torch.ones(2, 4)
        fabric.backward(model(x).square().mean())
        scaled = module[0].weight.grad.clone()
        before = weights(module)
        optimizer.step()
        plain = network()
        plain(x).square().mean().backward()
        assert torch.allclose(scaled / 1024, plain[0].weight.grad, rtol=0.05, atol=1e-3)
        assert torch.allclose(before["0.weight"] - module[0].weight, scaled / 1024, rtol=1e-3, atol=1e-6)

    def test_a_step_that_overflows_is_skipped_and_clipping_lets_it_pass(self):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
        fabric = Fabric(accelerator="cpu", plugins=[MixedPrecision("16-mixed", scaler=scaler)])
        model, optimizer = fabric.setup(module := network(), torch.optim.SGD(module.parameters(), lr=0.1))
        before = weights(module)
        fabric.backward(model(torch.ones(2, 4)).square().mean())
        norm = fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        assert not torch.isfinite(norm)
        assert same_weights(weights(module), before)
        with pytest.raises(RuntimeError, match="non-finite"):
            fabric.clip_gradients(model, optimizer, max_norm=1.0, error_if_nonfinite=True)

    @pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
    def test_a_plain_backward_is_refused(self, precision):
        model = Fabric(accelerator="cpu", precision=precision).setup(network())
        with pytest.raises(RuntimeError, match=rf"{precision}.* needs fabric.backward\(loss\)"):
            model(torch.ones(2, 4)).mean().backward()

    def test_it_goes_on_from_a_checkpoint(self, tmp_path):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
        fabric = Fabric(accelerator="cpu", plugins=[MixedPrecision("16-mixed", scaler=scaler)])
        model, optimizer = fabric.setup(module := network(), torch.optim.SGD(module.parameters(), lr=0.1))
        fabric.backward(model(torch.ones(2, 4)).mean())
        optimizer.step()
        fabric.save(tmp_path / "state.ckpt", {"precision": fabric.strategy.precision})
        again = Fabric(accelerator="cpu", precision="16-mixed")
        again.load(tmp_path / "state.ckpt", {"precision": again.strategy.precision})
        assert again.strategy.precision.state_dict()["scale"] == 2.0**39
        assert again.strategy.precision.skipped_steps == 1


def test_a_plain_backward_will_do_where_nothing_is_scaled():
    model = Fabric(accelerator="cpu").setup(network())
    model(torch.ones(2, 4)).mean().backward()
    assert model.module[0].weight.grad is not None


class TestClipping:
    def ready(self):
        fabric = Fabric(accelerator="cpu")
        model, optimizer = fabric.setup(module := network(), torch.optim.SGD(module.parameters(), lr=0.1))
        fabric.backward(1000 * model(torch.ones(2, 4)).sum())
        return fabric, model, optimizer

    def test_by_norm_returns_the_norm_before(self):
        fabric, model, optimizer = self.ready()
        parameters = list(model.parameters())
        before = nn.utils.get_total_norm([p.grad for p in parameters], torch.inf)
        assert torch.equal(fabric.clip_gradients(model, optimizer, max_norm=1.0, norm_type="inf"), before)
        assert nn.utils.get_total_norm([p.grad for p in parameters], torch.inf) <= 1.0

    def test_by_value_returns_nothing(self):
        fabric, model, optimizer = self.ready()
        assert fabric.clip_gradients(model, optimizer, clip_val=0.5) is None
        assert max(p.grad.abs().max() for p in model.parameters()) == 0.5

    @pytest.mark.parametrize("bounds", [{}, {"clip_val": 1.0, "max_norm": 1.0}])
    def test_one_bound_has_to_be_given(self, bounds):
        fabric, model, optimizer = self.ready()
        with pytest.raises(ValueError, match="give one of the two"):
            fabric.clip_gradients(model, optimizer, **bounds)

    def test_a_norm_that_is_no_number_is_an_error(self):
        fabric, model, optimizer = self.ready()
        model.module[0].weight.grad.fill_(torch.nan)
        with pytest.raises(RuntimeError, match="non-finite"):
            fabric.clip_gradients(model, optimizer, max_norm=1.0)


class TestContexts:
    def test_autocast_is_the_precisions(self):
        with Fabric(accelerator="cpu", precision="bf16-mixed").autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        with Fabric(accelerator="cpu").autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32

    def test_tensors_and_modules_are_made_in_the_format(self):
        fabric = Fabric(accelerator="cpu", precision="64-true")
        with fabric.init_tensor():
            assert torch.ones(2).dtype == torch.float64
        with fabric.init_module():
            assert nn.Linear(2, 2).weight.dtype == torch.float64
        assert torch.ones(2).dtype == torch.float32

    def test_a_module_may_stay_unfilled(self):
        torch.manual_seed(0)
        expected = nn.Linear(64, 64).weight
        with Fabric(accelerator="cpu").init_module(empty_init=False):
            torch.manual_seed(0)
            assert torch.equal(nn.Linear(64, 64).weight, expected)
        torch.manual_seed(0)
        with Fabric(accelerator="cpu").init_module(empty_init=True):
            drawn = torch.get_rng_state()
            nn.Linear(64, 64)
            assert torch.equal(torch.get_rng_state(), drawn)

    def test_sharded_model_is_an_old_name(self):
        fabric = Fabric(accelerator="cpu", precision="64-true")
        with pytest.warns(DeprecationWarning, match="init_module"):
            context = fabric.sharded_model()
        with context:
            assert nn.Linear(2, 2).weight.dtype == torch.float64


def test_to_device_moves_modules_in_place_and_collections_by_copy():
    fabric, module, batch = Fabric(accelerator="cpu"), network(), {"x": [torch.ones(2)], "name": "a"}
    assert fabric.to_device(module) is module
    assert torch.equal(fabric.to_device(batch)["x"][0], batch["x"][0])
    assert fabric.to_device(batch)["name"] == "a"


def test_a_closure_is_evaluated_by_the_optimizer():
    fabric, x = Fabric(accelerator="cpu"), torch.ones(2, 4)

    def run(module, optimizer, backward):
        def closure():
            optimizer.zero_grad()
            loss = module(x).square().mean()
            backward(loss)
            return loss

        return [optimizer.step(closure).item() for _ in range(3)]

    ours, plain = network(), network()
    model, optimizer = fabric.setup(ours, torch.optim.LBFGS(ours.parameters(), lr=0.1))
    losses = run(model, optimizer, fabric.backward)
    assert losses == run(plain, torch.optim.LBFGS(plain.parameters(), lr=0.1), torch.Tensor.backward)
    assert same_weights(weights(ours), weights(plain))


@pytest.mark.parametrize("made", ["before", "after"])
def test_a_scheduler_steps_the_optimizer_made_before_or_after(made):
    fabric, module = Fabric(accelerator="cpu"), network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    if made == "before":
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        model, optimizer, returned = fabric.setup(module, optimizer, scheduler=scheduler)
        assert returned is scheduler
    else:
        model, optimizer = fabric.setup(module, optimizer)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    fabric.backward(model(torch.ones(2, 4)).mean())
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == optimizer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_two_modules_with_an_optimizer_each():
    fabric = Fabric(accelerator="cpu")
    one, first = fabric.setup(module := network(), torch.optim.SGD(module.parameters(), lr=0.1))
    two = fabric.setup_module(network())
    second, third = fabric.setup_optimizers(
        torch.optim.SGD(two.module[0].parameters(), lr=0.1),
        torch.optim.SGD(two.module[2].parameters(), lr=0.1),
    )
    before = weights(two)
    fabric.backward(two(one(torch.ones(2, 4)).repeat(1, 2)).mean())
    first.step()
    second.step()
    assert not torch.equal(two.module[0].weight, before["0.weight"])
    assert torch.equal(two.module[2].weight, before["2.weight"])
    third.step()
    assert not torch.equal(two.module[2].weight, before["2.weight"])


def test_seeding_seeds_the_loaders_workers_too(monkeypatch):
    monkeypatch.delenv("PL_SEED_WORKERS", raising=False)
    fabric = Fabric(accelerator="cpu")
    assert fabric.seed_everything(7, verbose=False) == 7
    first = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(first, torch.rand(1))
    given = DataLoader(rows(), 8)
    loader = fabric.setup_dataloaders(given)
    assert loader.worker_init_fn is not None
    assert given.worker_init_fn is None
    fabric.seed_everything(7, workers=False, verbose=False)
    assert fabric.setup_dataloaders(given).worker_init_fn is None


class WholeStep(Strategy):
    strategy_name = "whole"

    def leyden_optimize_batch(self, batch, batch_idx):
        return {}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_nodes": 0}, "num_nodes=0"),
        ({"accelerator": "abacus"}, "abacus"),
        ({"strategy": "dpp"}, "dpp"),
        ({"devices": 0}, "devices=0"),
        ({"precision": "17-mixed"}, "17-mixed"),
        ({"loggers": 3}, "3 is no Logger"),
        ({"strategy": "single_device", "devices": 2}, "single_device"),
        ({"strategy": WholeStep()}, "strategy='whole' has a training step of its own"),
    ],
)
def test_what_can_not_work_is_refused(options, says):
    with pytest.raises(MisconfigurationException, match=says):
        Fabric(**{"accelerator": "cpu", **options})

    def test_the_strategy_of_the_optimizer_clips(self):
        class Clipping(Strategy):
            def clip_gradients(self, parameters, clip_val, algorithm):
                super().clip_gradients(parameters, clip_val, algorithm)
                return torch.tensor(7.0)

        fabric = Fabric(accelerator="cpu", strategy=Clipping())
        model, optimizer = fabric.setup(module := network(), torch.optim.SGD(module.parameters(), lr=0.1))
        fabric.backward(model(torch.ones(2, 4)).sum())
        assert fabric.clip_gradients(model, optimizer, max_norm=1.0) == 7.0


class TestTheEnd:
    def test_the_strategy_is_given_the_error_of_a_failed_run(self):
        ends = []

        class TakesError(Strategy):
            def teardown(self, module=None, error=None):
                ends.append(error)

        fabric = Fabric(accelerator="cpu", strategy=TakesError())
        with pytest.raises(ZeroDivisionError) as raised:
            fabric.launch(lambda fabric: 1 / 0)
        fabric.launch(lambda fabric: None)
        assert ends == [raised.value, None]

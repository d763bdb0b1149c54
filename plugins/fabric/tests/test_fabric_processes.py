"""Two processes, started in every way: the weights of one process on the same global batch, and no hanging."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, WeightedRandomSampler

import leyden as pl
from leyden.fabric import Fabric
from leyden.utilities.exceptions import MisconfigurationException
from leyden_precision.mixed import MixedPrecision
from leyden_testing.training import same_weights, weights

from .fabric_loop import OPTIMIZERS, fail, network, rows, train

HERE = Path(__file__).parent
CASES = {
    "SGD": ({}, None, 1e-6),
    "Adam": ({"optimizer": "Adam"}, None, 1e-6),
    "clipped by norm": ({"clip": {"max_norm": 0.1}}, None, 1e-6),
    "clipped by value": ({"optimizer": "Adam", "clip": {"clip_val": 0.01}}, None, 1e-5),
    "accumulated": ({"every": 2, "clip": {"max_norm": 0.1}}, None, 1e-6),
    "bf16": ({}, "bf16-mixed", 2e-2),
    "fp16": ({}, "16-mixed", 5e-3),
    "64 bits": ({"optimizer": "Adam"}, "64-true", 1e-7),  # the loss is in 32 bits
}


def pair(**options):
    return Fabric(**{"accelerator": "cpu", "devices": 2, "strategy": "ddp_fork", **options})


@pytest.mark.parametrize("case", CASES)
def test_the_weights_are_those_of_one_process_on_the_same_global_batch(case):
    options, precision, tolerance = CASES[case]

    def numbers():  # with PyTorch's first scale the first step overflows in one process and not in two
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        return {"plugins": [MixedPrecision(precision, scaler=scaler)]} if case == "fp16" else {"precision": precision}

    together = pair(**numbers()).launch(train, options)
    alone = Fabric(accelerator="cpu", **numbers()).launch(train, options)
    assert same_weights(together["weights"], alone["weights"], tolerance)
    assert not same_weights(together["weights"], weights(network()), 10 * tolerance)
    assert torch.equal(*together["gathered"])


def test_the_weights_are_lightnings_to_the_last_bit():
    import warnings

    from lightning_fabric import Fabric as Theirs

    def plain(fabric):  # Lightning sends tensors through memory that is gone with the process
        result = train(fabric, {"shuffle": True, "clip": {"max_norm": 0.5}})
        return result["losses"], result["gathered"].tolist()

    ours = pair().launch(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Theirs(accelerator="cpu", devices=2, strategy="ddp_fork").launch(plain)
    assert ours == theirs


def run_script(tmp_path, *command):
    out = tmp_path / "out.json"
    result = subprocess.run(
        [sys.executable, *command[:-2], HERE / "fabric_loop.py", out, *command[-2:]],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return result, out


TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [("ddp", "script"), ("ddp", "function"), ("ddp_spawn", "function"), (*TORCHRUN, "ddp", "script")],
    ids=["script", "function", "spawn", "torchrun"],
)
def test_processes_start_in_every_way(tmp_path, command):
    result, out = run_script(tmp_path, *command)
    assert result.returncode == 0, result.stdout + result.stderr
    written = json.loads(out.read_text())
    expected = Fabric(accelerator="cpu").launch(train, {})["weights"]
    assert same_weights({name: torch.tensor(value) for name, value in written["weights"].items()}, expected, 1e-6)
    assert written["gathered"][0] == written["gathered"][1]


class TestFailure:
    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["raise", "fewer", "at the end"])
    def test_of_one_rank_of_a_script_ends_all_and_is_told(self, tmp_path, how):
        result, _ = run_script(tmp_path, "ddp", how)
        assert result.returncode == 1
        reasons = {
            "raise": "ValueError: these rows are bad",
            "fewer": "Rank 1 ended its run after 2",
            "at the end": "ValueError: these rows are bad",
        }
        assert "PeerFailedError: Rank 1 failed first:\n" in result.stderr.replace("[rank0]: ", "")
        assert reasons[how] in result.stderr

    @pytest.mark.parametrize(
        ("how", "says"),
        [
            ("raise", "these rows are bad"),
            ("fewer", "Rank 1 ended its run after 2|Connection closed by peer"),
            ("at the end", "these rows are bad"),
            ("leaves", "in the forward pass of DistributedDataParallel: all ranks must end together"),
            ("waits", "all ranks must come to the same collectives in the same order"),
            ("killed", "was killed, or ended without an error message|SIGKILL"),
        ],
    )
    def test_of_one_rank_of_a_function_reaches_the_caller(self, how, says):
        with pytest.raises(Exception, match=says):
            pair().launch(fail, how)

    @pytest.mark.parametrize("options", [{"strategy": "ddp_fork"}, {}], ids=["another process", "this process"])
    def test_of_a_function_leaves_the_next_launch_alone(self, options):
        fabric = Fabric(accelerator="cpu", **options)
        with pytest.raises(ZeroDivisionError):
            fabric.launch(lambda fabric: 1 / 0)
        assert fabric.launch(lambda fabric: fabric.world_size) == 1


class TestLaunch:
    def test_it_runs_the_function_with_its_arguments_and_returns_what_rank_0_does(self):
        def function(fabric, first, *, second):
            return {"ranks": fabric.all_gather(torch.tensor(fabric.global_rank)), "given": (first, second)}

        result = pair().launch(function, 1, second=2)
        assert result["ranks"].tolist() == [0, 1]
        assert result["given"] == (1, 2)

    def test_in_one_process_nothing_is_started(self):
        fabric = Fabric(accelerator="cpu")
        assert fabric.launch() is None
        assert fabric.launch(lambda fabric: os.getpid()) == os.getpid()

    def test_a_launched_function_may_launch_another(self):
        assert pair().launch(lambda fabric: fabric.launch(lambda inner: inner.world_size)) == 2

    def test_run_is_launched_where_a_subclass_has_one(self):
        class Lite(Fabric):
            def run(self, factor):
                return factor * self.all_reduce(torch.tensor(1.0), reduce_op="sum")

        assert Lite(accelerator="cpu", devices=2, strategy="ddp_fork").run(3) == 6
        assert Fabric(accelerator="cpu").run() is None

    def test_what_can_not_be_launched_is_refused(self):
        with pytest.raises(TypeError, match="can't be called"):
            pair().launch(train(Fabric(accelerator="cpu"), {"epochs": 0}))
        with pytest.raises(TypeError, match="takes no argument"):
            pair().launch(lambda: None)
        with pytest.raises(TypeError, match=r"fabric.launch\(function\)"):
            pair().launch()

    @pytest.mark.parametrize(
        "use",
        [
            lambda fabric: fabric.setup(network()),
            lambda fabric: fabric.setup_module(network()),
            lambda fabric: fabric.setup_optimizers(torch.optim.SGD(network().parameters(), lr=0.1)),
            lambda fabric: fabric.setup_dataloaders(DataLoader(rows())),
            lambda fabric: fabric.init_module(),
            lambda fabric: fabric.barrier(),
            lambda fabric: fabric.broadcast(1),
            lambda fabric: fabric.all_gather(1),
            lambda fabric: fabric.all_reduce(1),
        ],
    )
    def test_before_it_nothing_works_that_needs_the_others(self, use):
        with pytest.raises(RuntimeError, match=r"ddp.* have not met yet; call fabric.launch\(\)"):
            use(pair(strategy="ddp"))

    def test_what_can_not_be_pickled_is_named(self):
        fabric = pair(strategy="ddp_spawn", callbacks=[lambda: None])
        with pytest.raises(MisconfigurationException, match=r"fabric\._callbacks\[0\] can't be pickled"):
            fabric.launch(train, {})


def talk(fabric):
    """What each collective gives on each rank; mutable values show whether they were changed in place."""
    rank = fabric.global_rank
    changed, whole = torch.tensor([1.0, rank]), torch.tensor([rank])
    found = {
        "who": (rank, fabric.local_rank, fabric.node_rank, fabric.world_size, fabric.is_global_zero),
        "broadcast": fabric.broadcast({"from": rank}, src=1),
        "gathered": fabric.all_gather({"a": torch.tensor([rank]), "b": [rank, "text"]}),
        "reduced": fabric.all_reduce(changed),
        "changed": changed,
        "mean": fabric.all_reduce(whole),
        "whole": whole,
        "sum": fabric.all_reduce(rank + 1, reduce_op=torch.distributed.ReduceOp.SUM),
        "max": fabric.all_reduce(2.0 * rank, reduce_op="max"),
    }
    fabric.barrier("talked")
    order = fabric.broadcast([])
    with fabric.rank_zero_first():
        order = ["seen" if os.path.exists("first") else "missing"]
        Path("first").touch()
    return fabric.strategy.all_gather_object({**found, "order": order})


def test_the_processes_talk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zero, one = pair().launch(talk)
    assert (zero["who"], one["who"]) == ((0, 0, 0, 2, True), (1, 1, 0, 2, False))
    assert zero["broadcast"] == one["broadcast"] == {"from": 1}
    assert one["gathered"]["a"].tolist() == [[0], [1]]
    assert one["gathered"]["b"][0].tolist() == [0, 1]
    assert one["gathered"]["b"][1] == ["text", "text"]
    for found in (zero, one):
        assert found["reduced"].tolist() == found["changed"].tolist() == [1.0, 0.5]
        assert (found["mean"].item(), found["sum"].item(), found["max"].item()) == (0.5, 3, 2.0)
    assert one["whole"].item() == 1  # a mean of whole numbers is none
    assert (zero["order"], one["order"]) == (["missing"], ["seen"])


def test_one_process_talks_to_itself():
    fabric = Fabric(accelerator="cpu")
    assert fabric.broadcast({"a": 1}) == {"a": 1}
    assert torch.equal(fabric.all_gather(torch.ones(2)), torch.ones(2))
    assert fabric.all_reduce({"a": 2})["a"].item() == 2
    with fabric.rank_zero_first():
        fabric.barrier()


class TestData:
    def seen(self, loader, epochs=1, **options):
        def collect(fabric):
            mine = fabric.setup_dataloaders(loader, **options)
            seen = [[batch[2].tolist() for batch in mine] for _ in range(epochs)]
            return fabric.strategy.all_gather_object(seen)

        return pair().launch(collect)

    def test_each_process_has_its_part_in_the_order_of_the_data(self):
        zero, one = self.seen(DataLoader(rows(8), 2))
        assert (zero, one) == ([[[0, 2], [4, 6]]], [[[1, 3], [5, 7]]])

    def test_shuffling_is_another_in_every_pass_and_divides_the_data(self):
        ranks = self.seen(DataLoader(rows(16), 4, shuffle=True), epochs=2)
        passes = [sorted(row for rank in ranks for batch in rank[n] for row in batch) for n in range(2)]
        assert passes == [list(range(16))] * 2
        assert ranks[0][0] != ranks[0][1]

    def test_a_sampler_of_the_users_own_is_divided(self):
        ranks = self.seen(DataLoader(rows(16), 2, sampler=WeightedRandomSampler([1.0] * 4 + [0.0] * 12, 12)))
        assert [sum(map(len, rank[0])) for rank in ranks] == [6, 6]
        assert {row for rank in ranks for batch in rank[0] for row in batch} <= {0, 1, 2, 3}

    def test_it_is_left_alone_on_request(self):
        zero, one = self.seen(DataLoader(rows(4), 2), use_distributed_sampler=False)
        assert zero == one == [[[0, 1], [2, 3]]]


def adversaries(fabric):
    """Two modules with an optimizer each, one of which runs several times before a backward pass."""
    torch.manual_seed(0)
    maker, judge = nn.Linear(4, 4), nn.Linear(4, 1)
    maker_model, maker_optimizer = fabric.setup(maker, torch.optim.SGD(maker.parameters(), lr=0.1))
    judge_model, judge_optimizer = fabric.setup(judge, torch.optim.SGD(judge.parameters(), lr=0.1))
    for x, _, _ in fabric.setup_dataloaders(DataLoader(rows(), 8 // fabric.world_size)):
        loss = judge_model(x).mean() - judge_model(maker_model(x).detach()).mean()
        judge_optimizer.zero_grad()
        fabric.backward(loss)
        judge_optimizer.step()
        maker_optimizer.zero_grad()
        fabric.backward(judge_model(maker_model(x)).square().mean())
        maker_optimizer.step()
    return weights(nn.ModuleList([maker, judge]))


def test_several_modules_have_their_gradients_averaged():
    together, alone = pair().launch(adversaries), Fabric(accelerator="cpu").launch(adversaries)
    assert same_weights(together, alone, 1e-6)


class Manual(pl.LightningModule):
    """Steps by itself, or has the loop do it."""

    def __init__(self, automatic):
        super().__init__()
        self.layer = network()
        self.automatic_optimization = automatic

    def training_step(self, batch, batch_idx):
        loss = nn.functional.mse_loss(self.layer(batch[0]), batch[1])
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, 0.5, "norm")
            optimizer.step()
        return loss


def lightning_loop(fabric, automatic):
    module = Manual(automatic)
    model, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.1))
    for i, batch in enumerate(fabric.setup_dataloaders(DataLoader(rows(), 8 // fabric.world_size))):
        loss = model.training_step(batch, i)
        if automatic:
            optimizer.zero_grad()
            fabric.backward(loss)
            fabric.clip_gradients(model, optimizer, max_norm=0.5)
            optimizer.step()
    return weights(module)


@pytest.mark.parametrize("automatic", [True, False])
def test_a_lightning_modules_own_step_is_trained(automatic):
    together, alone = pair().launch(lightning_loop, automatic), Fabric(accelerator="cpu").launch(lightning_loop, True)
    assert same_weights(together, alone, 1e-6)


def past_the_wrapper(fabric):
    class Model(nn.Linear):
        def loss(self, x):
            return self(x).square().mean()

        def name(self):
            return "a model"

        def both(self, x):
            return self.loss(x)

    torch.manual_seed(fabric.global_rank)  # the same inputs would have the same gradients
    model = fabric.setup(Model(4, 2))
    assert model.name() == "a model"
    with pytest.raises(RuntimeError, match=r"Model.loss\(\).*'ddp'; write model.mark_forward_method\('loss'\)"):
        model.loss(torch.ones(2, 4))
    model.module(torch.ones(2, 4))  # nothing is left of the refusal
    model.mark_forward_method("loss")
    model.mark_forward_method(model.module.both)
    fabric.backward(model.loss(torch.randn(2, 4)))
    fabric.backward(model.both(x=torch.randn(2, 4)))
    return fabric.all_gather(model.module.weight.grad)


def test_a_method_that_runs_the_model_must_be_marked():
    zero, one = pair().launch(past_the_wrapper)
    assert zero.abs().sum() > 0
    assert torch.equal(zero, one)


def without_sync(fabric):
    model = fabric.setup(network())
    x = torch.full((2, 4), float(fabric.global_rank + 1))
    gradients = []
    for enabled in (True, False):
        with fabric.no_backward_sync(model, enabled):
            fabric.backward(model(x).square().mean())
        gradients.append(fabric.all_gather(model.module[0].weight.grad))
    return gradients


def test_gradients_stay_where_they_are_until_a_pass_exchanges_them():
    kept, exchanged = pair().launch(without_sync)
    assert not torch.equal(*kept)
    assert torch.equal(*exchanged)


def test_no_backward_sync_needs_a_module_that_was_set_up():
    with pytest.raises(TypeError, match="a Sequential that was not set up"):
        Fabric(accelerator="cpu").no_backward_sync(network())


def compiled_loop(fabric):
    calls = []

    def backend(graph, inputs):
        calls.append(1)
        return graph.forward

    torch._dynamo.reset()
    module = network()
    compiled = torch.compile(module, backend=backend)
    model, optimizer = fabric.setup(compiled, torch.optim.SGD(module.parameters(), lr=0.1))
    for x, y, _ in fabric.setup_dataloaders(DataLoader(rows(), 8 // fabric.world_size)):
        optimizer.zero_grad()
        fabric.backward(nn.functional.mse_loss(model(x), y))
        optimizer.step()
    return len(calls), weights(model)


def plain_loop(fabric):
    return train(fabric, {"epochs": 1, "optimizer": "plain"})


def test_a_compiled_module_is_compiled_within_what_the_strategy_adds(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "plain", lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    expected = Fabric(accelerator="cpu").launch(plain_loop)["weights"]
    for fabric in (Fabric(accelerator="cpu"), pair()):
        graphs, found = fabric.launch(compiled_loop)
        assert graphs == 1
        assert same_weights(found, expected, 1e-6)

"""Synchronised batch normalisation without a GPU: what one process computes on the batches of all."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn

from leyden.strategies import DDPStrategy
from leyden_ddp.batchnorm import SynchronisedBatchNorm, synchronise_batchnorm
from leyden_testing.forking import by_hand, codes
from leyden_testing.reporting import Model, alone, loader, quiet
from leyden_testing.training import Rows

HOST = torch.device("cpu")
# the plain layer, the shape of a sample, samples of the two processes
CASES = {
    "1d": (lambda: nn.BatchNorm1d(3), (3,), (4, 4)),
    "1d of sequences": (lambda: nn.BatchNorm1d(3), (3, 5), (2, 3)),
    "2d": (lambda: nn.BatchNorm2d(3), (3, 2, 2), (5, 1)),
    "2d, a process without samples": (lambda: nn.BatchNorm2d(3), (3, 2, 2), (0, 4)),
    "single samples": (lambda: nn.BatchNorm1d(3), (3,), (1, 1)),
    "a mean over all batches": (lambda: nn.BatchNorm1d(3, momentum=None), (3,), (3, 5)),
    "not affine": (lambda: nn.BatchNorm1d(3, affine=False), (3,), (3, 5)),
    "without running statistics": (lambda: nn.BatchNorm1d(3, track_running_stats=False), (3,), (3, 5)),
}


def see(layer, x, weights):
    """What two batches in training mode and one in evaluation mode make of a layer, and its gradients."""
    x = x.clone().requires_grad_()
    outputs = [layer(x), layer(x * 2 + 1000)]
    sum((output * weights).square().sum() for output in outputs).backward()
    layer.eval()
    return {
        "outputs": [*outputs, layer(x)] if layer.track_running_stats else outputs,
        "input": [x.grad],
        "parameters": [parameter.grad for parameter in layer.parameters()],
        "state": list(layer.state_dict().values()),
    }


def compare(case):
    """One process's part of a case, which it compares to one process with everything."""
    make, shape, counts = CASES[case]
    torch.manual_seed(0)
    plain = make().double()
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    rows = torch.randn(sum(counts), *shape, dtype=torch.float64) * 3 + 7
    weights = torch.rand_like(rows)
    own = slice(0, counts[0]) if dist.get_rank() == 0 else slice(counts[0], None)
    layer = synchronise_batchnorm(copy.deepcopy(plain), HOST)
    assert type(layer) is SynchronisedBatchNorm
    expected, found = see(plain, rows, weights), see(layer, rows[own], weights[own])
    for gradient in found["parameters"]:
        dist.all_reduce(gradient)
    for output, whole in zip(found["outputs"] + found["input"], expected["outputs"] + expected["input"], strict=True):
        torch.testing.assert_close(output, whole[own], rtol=1e-9, atol=1e-9)
    for name in ("parameters", "state"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9)
    assert layer.state_dict().keys() == plain.state_dict().keys()


def compare_all():
    dist.init_process_group("gloo")
    for case in CASES:
        try:
            compare(case)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error
    layer = synchronise_batchnorm(nn.BatchNorm1d(3), HOST)
    for rows, said in ((torch.ones(1 - dist.get_rank(), 3), "have 1 together"), (torch.ones(3), r"shape \(3,\)")):
        with pytest.raises(ValueError, match=said):
            layer(rows)
    halves = layer(torch.randn(8, 3).bfloat16())
    assert halves.dtype is torch.bfloat16
    assert layer.running_mean.dtype is torch.float32
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_compute_what_one_does_on_all_samples(tmp_path):
    processes = by_hand(compare_all, tmp_path / "said")
    assert codes(processes) == [0, 0], "\n".join(process.said for process in processes)


class Normalised(Model):
    """Both kinds of layer, one of them in two places."""

    def __init__(self, convolves=True):
        super().__init__()
        shared = nn.BatchNorm1d(8)
        images = [nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4)]
        self.layer = nn.Sequential(
            *(images if convolves else []), nn.Linear(4, 8), shared, nn.Tanh(), nn.Linear(8, 8), shared, nn.Linear(8, 2)
        )

    def on_train_start(self):
        self.report = {"kinds": [type(part).__name__ for part in self.layer if "BatchNorm" in type(part).__name__]}


def furthest(one, other):
    """The greatest difference of any weight or running statistic."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


# options of the Trainer, tolerance against one process
FITS = {
    "32 bits": ({}, 1e-5),
    "64 bits": ({"precision": "64-true"}, 1e-12),
    "accumulated": ({"precision": "64-true", "accumulate_grad_batches": 2}, 1e-12),
}


@pytest.mark.parametrize("case", FITS)
def test_a_fit_has_the_weights_of_one_process_on_the_same_global_batch(tmp_path, case):
    options, tolerance = FITS[case]
    together, single, untied = Normalised(), Normalised(), Normalised()
    trainer, reporter = quiet(tmp_path, max_epochs=2, sync_batchnorm=True, **options)
    trainer.fit(together, loader(22, 4))  # the last batch is one of 3
    alone(tmp_path / "alone", max_epochs=2, sync_batchnorm=True, **options).fit(single, loader(22, 8))
    quiet(tmp_path / "untied", max_epochs=2, **options)[0].fit(untied, loader(22, 4))
    assert furthest(together, single) < tolerance
    assert furthest(untied, single) > 1e-3
    ranks = reporter.reports()
    assert ranks[0]["kinds"] == ["SynchronisedBatchNorm"] * 3
    assert ranks[0]["weights"] == ranks[1]["weights"]


def fit_then_test(root):
    """As a script under ``ddp``: the same module in one run after the other, then by itself."""
    model = Normalised()
    strategy = {"strategy": "ddp", "sync_batchnorm": True}
    trainer, _ = quiet(root, max_epochs=2, **strategy)
    trainer.fit(model, loader(16, 4))
    layers = [part for part in model.layer if isinstance(part, SynchronisedBatchNorm)]
    trainer.test(model, loader(7, 2), verbose=False)
    again, _ = quiet(root, max_epochs=1, **strategy)
    again.fit(model, loader(16, 4))
    assert [part for part in model.layer if isinstance(part, nn.modules.batchnorm._BatchNorm)] == layers
    trainer.save_checkpoint(root / "of_two.ckpt")
    by_itself = alone(root / "by_itself", strategy="single_device")
    by_itself.fit(copy.deepcopy(model), loader(8 + 8 * dist.get_rank(), 4))  # one process has more batches
    model.eval()
    with torch.no_grad():
        rows = Rows(16).tensors[0]
        torch.save({"tested": trainer.callback_metrics, "output": model.layer(rows)}, root / f"of-{dist.get_rank()}")
    dist.destroy_process_group()
    model.train()
    assert model.layer(rows[:4]).shape == (4, 2)  # plain batch normalisation, as nobody else is there
    assert isinstance(pickle.loads(pickle.dumps(model.layer))[2], SynchronisedBatchNorm)


@pytest.mark.filterwarnings("ignore:The checkpoint holds the state of callbacks")
def test_a_module_goes_from_run_to_run_and_its_checkpoint_to_one_process(tmp_path):
    processes = by_hand(lambda: fit_then_test(tmp_path), tmp_path / "said")
    assert codes(processes) == [0, 0], "\n".join(process.said for process in processes)
    results = [torch.load(tmp_path / f"of-{rank}", weights_only=False) for rank in range(2)]
    assert torch.equal(results[0]["output"], results[1]["output"])
    model = Normalised()
    model.load_state_dict(torch.load(tmp_path / "of_two.ckpt", weights_only=True)["state_dict"])
    with torch.no_grad():
        assert torch.equal(model.eval().layer(Rows(16).tensors[0]), results[0]["output"])
    trainer = alone(tmp_path / "alone", max_epochs=4)
    model.train()
    trainer.fit(model, loader(16, 8), ckpt_path=tmp_path / "of_two.ckpt")
    assert trainer.global_step > 6


def test_a_gpu_gets_pytorchs_own():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm2d(2)))
    weight = model[0].weight
    on_gpu = synchronise_batchnorm(model, torch.device("cuda", 0))
    assert type(on_gpu[0]) is type(on_gpu[1][0]) is nn.SyncBatchNorm
    on_host = synchronise_batchnorm(on_gpu, HOST)
    assert type(on_host[0]) is type(on_host[1][0]) is SynchronisedBatchNorm
    assert on_host[0].weight is weight


def test_every_parallel_strategy_has_it():
    strategy = DDPStrategy()
    strategy.parallel_devices = [HOST]
    assert type(strategy.convert_sync_batchnorm(nn.BatchNorm3d(2))) is SynchronisedBatchNorm

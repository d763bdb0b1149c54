"""Strategies by name, started in every way; and what happens when a rank fails, dies, or goes another way."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

import leyden as pl
from leyden import strategies
from leyden.strategies import FSDPStrategy
from leyden.utilities.exceptions import MisconfigurationException
from leyden_ddp.environments.variables import free_port
from leyden_testing import training
from leyden_testing.forking import PATIENCE
from leyden_testing.ranks import on_ranks
from leyden_testing.training import loader

from .sharded_model import STRATEGIES, Model, furthest, quiet

NAMED = {
    "zero_1": ("ZeRO1Strategy", {}),
    "zero_2": ("FSDPStrategy", {"_reshards": False, "_policy": 1_000_000, "cpu_offload": None}),
    "zero_3": ("FSDPStrategy", {"_reshards": True, "_policy": 1_000_000, "cpu_offload": None}),
    "zero_3_offload": ("FSDPStrategy", {"_reshards": True, "_policy": 1_000_000, "cpu_offload": True}),
    "fsdp": ("FSDPStrategy", {"_reshards": True, "_policy": None, "cpu_offload": None}),
    "fsdp_cpu_offload": ("FSDPStrategy", {"_reshards": True, "_policy": None, "cpu_offload": True}),
    "model_parallel": ("ModelParallelStrategy", {"_reshards": True, "state_dict_type": "sharded"}),
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize(("suffix", "start_method"), [("", "popen"), ("_spawn", "spawn")])
def test_a_strategy_is_found_by_its_name(tmp_path, monkeypatch, name, suffix, start_method):
    monkeypatch.delenv("MASTER_PORT", raising=False)
    if name + suffix == "model_parallel_spawn":
        with pytest.raises(MisconfigurationException, match="write one of popen"):
            strategies.ModelParallelStrategy(start_method="spawn")
        return
    strategy = pl.Trainer(accelerator="cpu", devices=2, strategy=name + suffix, logger=False).strategy
    class_name, attributes = NAMED[name]
    assert type(strategy) is getattr(strategies, class_name)
    assert strategy.start_method == start_method
    assert {attribute: getattr(strategy, attribute) for attribute in attributes} == attributes


SCRIPT = """
    import sys
    sys.path.append({tests!r})
    from sharded_model import STRATEGIES, Model, quiet
    from leyden_testing.training import loader, weights
    import torch
    STRATEGIES.clear()  # the name is to be found by the Trainer

    if __name__ == "__main__":
        model, trainer = Model(), quiet({root!r}, {strategy!r}, 2)
        trainer.fit(model, loader(8), loader(4))
        state = weights(model)
        if trainer.is_global_zero:
            torch.save(state, {root!r} + "/weights.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero_1", "zero_3_spawn"])
def test_a_script_trains_in_two_processes(tmp_path, strategy):
    script = tmp_path / "train.py"
    values = {"tests": str(Path(__file__).parent), "root": str(tmp_path), "strategy": strategy}
    script.write_text(textwrap.dedent(SCRIPT).format(**values))
    subprocess.run([sys.executable, str(script)], check=True, timeout=100, env={**os.environ, "OMP_NUM_THREADS": "1"})
    single = Model()
    quiet(tmp_path).fit(single, loader(8, 4), loader(4))
    assert furthest(torch.load(tmp_path / "weights.pt"), training.weights(single)) < 1e-6


def test_the_readmes_script_learns_the_digits(tmp_path):
    pytest.importorskip("sklearn")
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    script = tmp_path / "train.py"
    script.write_text(readme.split("```python\n")[1].split("```")[0], encoding="utf-8")
    command, variables = [sys.executable, str(script)], {**os.environ, "OMP_NUM_THREADS": "1"}
    said = subprocess.run(command, check=True, timeout=100, env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert float(re.search(r"accuracy\W+([\d.]+)", said.stdout)[1]) > 0.9


class Made(Model):
    """Makes its layers in ``configure_model``, which the parent of spawned processes has to do too."""

    def __init__(self):
        super().__init__()
        self.layers = None

    def configure_model(self):
        if self.layers is None:
            torch.manual_seed(2)
            self.layers = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 2))


def test_layers_that_are_made_in_the_processes_come_back(tmp_path):
    model, single = Made(), Made()
    quiet(tmp_path, FSDPStrategy(start_method="fork"), 2).fit(model, loader(8), loader(4))
    quiet(tmp_path).fit(single, loader(8, 4), loader(4))
    assert furthest(training.weights(model), training.weights(single)) < 1e-6


def test_a_run_within_the_handling_of_an_error_brings_back_the_whole_module(tmp_path):
    model = Model()
    try:
        raise ArithmeticError
    except ArithmeticError:
        quiet(tmp_path, FSDPStrategy(start_method="fork"), 2).fit(model, loader(8), loader(4))
    assert type(model.scale.detach()) is torch.Tensor
    assert model.layers[0].weight.shape == (9, 4)


# -- when something breaks --------------------------------------------------------------------------------------


class Breaking(Model):
    """Rank 1 breaks in its third batch."""

    how = "raises"

    def training_step(self, batch, batch_idx):
        if self.global_rank == 1 and batch_idx == 2:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ArithmeticError("rank 1 can not count to three")
        return super().training_step(batch, batch_idx)


def run_breaking(rank, port, root, how):
    """One rank; what it is told goes to a file."""
    os.environ.update(LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    model = Breaking()
    model.how = how
    try:
        quiet(root, "zero_3 by layer", 2).fit(model, loader(20), loader(4))
    except BaseException as error:
        (root / f"{rank}.txt").write_text(f"{type(error).__name__}: {error}")
        raise


@pytest.mark.parametrize("how", ["raises", "killed"])
def test_when_a_rank_breaks_the_other_ends_soon_and_says_why(tmp_path, capfd, how):
    port, context = free_port(), multiprocessing.get_context("fork")
    ranks = [context.Process(target=run_breaking, args=(rank, port, tmp_path, how)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in reversed(ranks):
        process.join(PATIENCE)
    assert all(process.exitcode not in (0, None) for process in ranks)
    told = "".join(path.read_text() for path in tmp_path.glob("0.txt")) + capfd.readouterr().err
    assert "Rank 1" in told or "rank 1" in told
    assert ("can not count to three" if how == "raises" else "killed") in told


def train_watched(root):
    os.environ["LEYDEN_DEBUG_COLLECTIVES"] = "1"
    model = Model()
    trainer = quiet(root, "zero_3 by layer", 2, accumulate_grad_batches=2)
    trainer.fit(model, loader(8), loader(5, 1))
    return trainer.global_step


def test_the_ranks_agree_on_their_collectives(tmp_path):
    assert on_ranks(2, train_watched, tmp_path) == [1, 1]


class Diverging(Model):
    def training_step(self, batch, batch_idx):
        if self.global_rank == 1 and batch_idx == 1:
            self.trainer.strategy.reduce(torch.ones(1))
        return super().training_step(batch, batch_idx)


def diverge(root):
    os.environ["LEYDEN_DEBUG_COLLECTIVES"] = "1"
    try:
        quiet(root, "zero_3", 2).fit(Diverging(), loader(8), loader(4))
    except BaseException as error:
        return str(error)
    return ""


def test_collectives_that_diverge_are_named(tmp_path):
    for said in on_ranks(2, diverge, tmp_path):
        assert "reduce('mean')" in said
        assert "gradients" in said


def evaluate_one_row(root):
    """What a fit's validation, a test and a prediction make of one row, of each strategy."""
    found = {}
    for strategy in STRATEGIES:
        model, trainer = Model(), quiet(root, strategy, 2)
        trainer.fit(model, loader(8), loader(1))
        validated = float(trainer.callback_metrics["val_loss"])
        (tested,) = trainer.test(model, loader(1), verbose=False)
        found[strategy] = {"validated": validated, **tested, "predicted": trainer.predict(model, loader(1))}
    return found


def test_one_row_for_two_processes(tmp_path):
    single, trainer = Model(), quiet(tmp_path)
    trainer.fit(single, loader(8, 4), loader(1))
    (expected,) = trainer.test(single, loader(1), verbose=False)
    (predicted,) = trainer.predict(single, loader(1))
    for rank, found in enumerate(on_ranks(2, evaluate_one_row, tmp_path)):
        for strategy, values in found.items():
            assert values["test_loss"] == values["validated"] == pytest.approx(expected["test_loss"], abs=1e-5), (
                strategy
            )
            assert len(values["predicted"]) == 1 - rank
            assert all(torch.allclose(row, predicted, atol=1e-5) for row in values["predicted"])

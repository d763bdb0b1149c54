"""Functions that the checks of a strategy run on every rank; each returns a report of its process."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import leyden as pl
from leyden_testing import traces
from leyden_testing.training import Model, SaveAfterEpoch, SaveAmid, rows, weights

MakeTrainer = Callable[..., pl.Trainer]
BATCH = 4  # rows of each process


def data(processes: int, alone: bool = False) -> tuple[Any, Any]:
    """Return the training and the validation loader, with four and two batches for each process.

    Args:
        processes: The number of processes that share the rows.
        alone: Whether one process takes all rows, with batches that are as large as those of all processes together.
    """
    size = BATCH * processes if alone else BATCH
    return rows(4 * BATCH * processes, size), rows(2 * BATCH * processes, size)


def train(make: MakeTrainer, root: Path, processes: int) -> dict[str, Any]:
    """Fit, with checkpoints within and after an epoch; test; predict; fit another model with the same strategy."""
    saved, model = SaveAfterEpoch(root / "epoch.ckpt"), Model()
    trainer = make(root, callbacks=[SaveAmid(root / "amid.ckpt"), saved])
    train_rows, val_rows = data(processes)
    trainer.fit(model, train_rows, val_rows)
    strategy = trainer.strategy
    report: dict[str, Any] = {
        "weights": weights(model),
        "saved": saved.weights,
        "steps": trainer.global_step,
        "seen": list(model.rows_seen),
        "sampler": strategy.sampler_arguments,
        "place": (strategy.world_size, strategy.global_rank, strategy.local_rank, strategy.node_rank),
        "is_global_zero": strategy.is_global_zero,
        "val_loss": trainer.callback_metrics["val_loss"].cpu(),
    }
    [logged] = trainer.test(model, val_rows, verbose=False)
    predicted = trainer.predict(model, val_rows) or []
    report.update(test_loss=torch.tensor(logged["test_loss"]), predicted=torch.cat([p.cpu() for p in predicted]))
    again = Model()
    make(root, strategy=strategy).fit(again, train_rows, val_rows)
    return {**report, "again": weights(again)}


def train_accumulated(make: MakeTrainer, root: Path, processes: int) -> Any:
    """Fit with accumulated and clipped gradients; return the weights."""
    model = Model()
    make(root, accumulate_grad_batches=2, gradient_clip_val=0.05).fit(model, *data(processes))
    return weights(model)


def resume(make: MakeTrainer, root: Path, processes: int, paths: list[str]) -> list[Any]:
    """Resume a fit from each of several checkpoints; return the weights of each."""
    found = []
    for path in paths:
        model = Model()
        make(root).fit(model, *data(processes), ckpt_path=path)
        found.append(weights(model))
    return found


class CollectiveModel(Model):
    """A model that calls all collectives of the strategy when training starts.

    Args:
        root: A directory that all processes share.

    Attributes:
        answers: The results of the collectives.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.answers: dict[str, Any] = {}

    def on_train_start(self) -> None:
        """Call the collectives, in the same order in every process."""
        strategy = self.trainer.strategy
        rank, size = strategy.global_rank, strategy.world_size
        mine = torch.tensor([rank + 1.0, 10.0 * rank])
        self.answers = {
            "reduced": {op: strategy.reduce(mine, op) for op in ("mean", "sum", "min", "max")},
            "mine": mine,
            "gathered": strategy.all_gather(mine),
            "objects": strategy.all_gather_object({"rank": rank}),
            "all of all": strategy.reduce_boolean_decision(True, all=True),
            "all of some": strategy.reduce_boolean_decision(rank == size - 1, all=True),
            "any of some": strategy.reduce_boolean_decision(rank == size - 1, all=False),
            "any of none": strategy.reduce_boolean_decision(False, all=False),
            "broadcast": [strategy.broadcast(f"of {rank}", src) for src in range(size)],
        }
        if rank == size - 1:  # so that the others reach the barrier first
            matrix = torch.ones(400, 400)
            for _ in range(50):
                matrix = matrix @ matrix / 400
        (self.root / f"here-{rank}").touch()
        strategy.barrier("the kit's")
        self.answers["here"] = sorted(path.name for path in self.root.glob("here-*"))


def run_collectives(make: MakeTrainer, root: Path, processes: int) -> dict[str, Any]:
    """Return the results of all collectives, and the rank."""
    model = CollectiveModel(root)
    trainer = make(root, max_epochs=1)
    trainer.fit(model, *data(processes))
    return {**model.answers, "rank": trainer.global_rank}


class LastFails(Model):
    """A model that raises an error in the second batch of the last process, for which the others would wait."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Raise the error, or train."""
        if batch_idx == 1 and self.trainer.global_rank == self.trainer.world_size - 1:
            raise ValueError("the model's own error")
        return super().training_step(batch, batch_idx)


def fail(make: MakeTrainer, root: Path, processes: int) -> str:
    """Return the error with which a run ends in this process if the last process raises one."""
    try:
        make(root).fit(LastFails(), *data(processes))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


class LastIsAsked(Model):
    """A model whose last process is asked to end in its second batch, as by a cluster's signal."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Ask the run to end, and train."""
        if batch_idx == 1 and self.trainer.global_rank == self.trainer.world_size - 1:
            self.trainer.asked_to_end = "SIGTERM"
        return super().training_step(batch, batch_idx)


def end_early(make: MakeTrainer, root: Path, processes: int) -> tuple[int, str]:
    """Return the number of steps, and the error's class, with which a run ends if the last process is asked to end."""
    trainer = make(root)
    try:
        trainer.fit(LastIsAsked(), *data(processes))
    except BaseException as error:
        return trainer.global_step, type(error).__name__
    return trainer.global_step, ""


def train_unevenly(make: MakeTrainer, root: Path, processes: int) -> int:
    """Return the number of steps of a fit in which each process has more batches than the one before."""
    trainer = make(root, max_epochs=1, use_distributed_sampler=False)
    trainer.fit(Model(), rows(8 * (trainer.global_rank + 1)), rows(8))
    return trainer.global_step


def trace(make: MakeTrainer, root: Path, processes: int) -> list[str]:
    """Return what two runs leave behind; the process group may stay initialized after the first run."""
    before = traces.settings()
    models = [Model() for _ in range(2)]
    make(root / "first").fit(models[0], *data(processes))
    after = traces.settings()
    if processes > 1:  # initializing the process group changes both
        after.update({name: before[name] for name in ("torch.distributed.is_initialized()", "sys.excepthook")})
    gc.collect()
    held = traces.open_resources()
    make(root / "second").fit(models[1], *data(processes))
    gc.collect()
    return [*traces.changed(before, after), *traces.left_behind(held)]


def build_module(make: MakeTrainer, root: Path, processes: int) -> bool:
    """Whether ``convert_sync_batchnorm`` returns a module."""
    return isinstance(make(root).strategy.convert_sync_batchnorm(nn.BatchNorm1d(2)), nn.Module)

"""What Leyden costs on top of a hand-written script of two processes: ``ddp`` and ``zero_2`` at steps of a few ms.

    python tests/benchmarks/processes.py                 # about a minute
    python tests/benchmarks/processes.py --quick         # coarse

Each of two processes trains the same model as a hand-written loop around ``DistributedDataParallel`` (or
``fully_shard``) and in Leyden, in alternation in the same process, so that a machine that is busy for a while slows
both alike. A figure is the median over rounds of the time of a block of steps; the last column is Leyden's speed as a
share of the hand-written script's.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
import warnings
from collections.abc import Iterator
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

import leyden as pl

WIDTH, BATCH, STEPS = 384, 64, 40


def network() -> nn.Sequential:
    """The model of both; a step takes a few milliseconds on one core."""
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 8))


class Batches:
    """The data of one block."""

    def __init__(self) -> None:
        self.data = [(torch.randn(BATCH, WIDTH), torch.randn(BATCH, 8)) for _ in range(STEPS)]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.data)

    def __len__(self) -> int:
        return STEPS


class Model(pl.LightningModule):
    """The same network under Leyden; it notes when the steady part of a block begins and ends."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step."""
        if batch_idx == STEPS // 4:
            self.began = time.perf_counter()
        return mse_loss(self.network(batch[0]), batch[1])

    def on_train_end(self) -> None:
        """The block is over."""
        self.ended = time.perf_counter()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As in the loop by hand."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def by_hand(strategy: str, data: Batches) -> float:
    """Seconds a step of the hand-written loop."""
    model: Any = network()
    if strategy == "ddp":
        model = DistributedDataParallel(model)
    else:
        fully_shard(model, reshard_after_forward=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for i, (x, y) in enumerate(data):
        if i == STEPS // 4:
            began = time.perf_counter()
        loss = mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - began) / (len(data) - STEPS // 4)


def in_leyden(strategy: str, data: Batches) -> float:
    """Seconds a step in Leyden, everything off that is not the loop."""
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy=strategy, max_epochs=1, barebones=True)
    model = Model()
    trainer.fit(model, data)
    return (model.ended - model.began) / (len(data) - STEPS // 4)


def rank(number: int, port: int, rounds: int, results: Any) -> None:
    """One process: every strategy, both contenders in alternation."""
    warnings.simplefilter("ignore")
    os.environ.update(
        RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found: dict[str, list[tuple[float, float]]] = {"ddp": [], "zero_2": []}
    for _ in range(rounds + 1):
        for strategy, times in found.items():
            times.append((by_hand(strategy, Batches()), in_leyden(strategy, Batches())))
    if number == 0:
        results.put({strategy: times[1:] for strategy, times in found.items()})  # the first round warms up


def main(rounds: int) -> None:
    """Run both processes and print the table."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    processes = [context.Process(target=rank, args=(n, port, rounds, results)) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print(f"| two processes, {rounds} rounds of {STEPS} steps | by hand, ms a step | Leyden, ms a step | speed |")
    print("| --- | ---: | ---: | ---: |")
    for strategy, times in results.get().items():
        hand, ours = (1e3 * median(column) for column in zip(*times, strict=True))
        share = median(a / b for a, b in times)
        print(f"| `{strategy}` | {hand:.2f} | {ours:.2f} | {share:.3f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    main(4 if parser.parse_args().quick else 20)

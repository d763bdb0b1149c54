"""What Leyden costs on top of a hand-written script of two processes: ``ddp`` and ``zero_2`` at steps of a few ms.

    python tests/benchmarks/processes.py                 # about a minute
    python tests/benchmarks/processes.py --quick         # coarse

Each of two processes trains the same model as a hand-written loop around ``DistributedDataParallel`` (or
``fully_shard``) and in Leyden, in alternation in the same process, so that a machine that is busy for a while slows
both alike. A figure is the median over rounds of the time of a step, by the wall clock and, in parentheses, by the
processor time of one process; the last column is Leyden's speed as a share of the hand-written script's. The wall
clock says something only where each process has a core to itself.
"""

from __future__ import annotations

import argparse
import logging
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


def clocks() -> tuple[float, float]:
    """The wall clock and this process's processor time, in seconds."""
    return time.perf_counter(), time.process_time()


def a_step(began: tuple[float, float], ended: tuple[float, float]) -> tuple[float, float]:
    """Seconds a step by both clocks, in the steady part of a block."""
    wall, processor = ((end - begin) / (STEPS - STEPS // 4) for begin, end in zip(began, ended, strict=True))
    return wall, processor


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
            self.began = clocks()
        return mse_loss(self.network(batch[0]), batch[1])

    def on_train_end(self) -> None:
        """The block is over."""
        self.ended = clocks()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As in the loop by hand."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def by_hand(strategy: str, data: Batches) -> tuple[float, float]:
    """Seconds a step of the hand-written loop, by both clocks."""
    model: Any = network()
    if strategy == "ddp":
        model = DistributedDataParallel(model)
    else:
        fully_shard(model, reshard_after_forward=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for i, (x, y) in enumerate(data):
        if i == STEPS // 4:
            began = clocks()
        loss = mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return a_step(began, clocks())


def in_leyden(strategy: str, data: Batches) -> tuple[float, float]:
    """Seconds a step in Leyden, everything off that is not the loop, by both clocks."""
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy=strategy, max_epochs=1, barebones=True)
    model = Model()
    trainer.fit(model, data)
    return a_step(model.began, model.ended)


def rank(number: int, port: int, rounds: int, results: Any) -> None:
    """One process: every strategy, both contenders in alternation."""
    warnings.simplefilter("ignore")
    logging.getLogger("leyden").setLevel(logging.WARNING)
    os.environ.update(
        RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found: dict[str, list[tuple[tuple[float, float], ...]]] = {"ddp": [], "zero_2": []}
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
        texts = []
        for contender in (0, 1):
            wall, processor = (1e3 * median(pair[contender][clock] for pair in times) for clock in (0, 1))
            texts.append(f"{wall:.2f} ({processor:.2f})")
        speeds = [median(hand[clock] / ours[clock] for hand, ours in times) for clock in (0, 1)]
        print(f"| `{strategy}` | {' | '.join(texts)} | {speeds[0]:.3f} ({speeds[1]:.3f}) |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    main(4 if parser.parse_args().quick else 20)

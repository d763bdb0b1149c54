"""What a step, a ``self.log`` call, an import and a start cost in Leyden, a hand-written loop and pytorch-lightning.

    python tests/benchmarks/overhead.py                 # a few minutes
    python tests/benchmarks/overhead.py --quick         # half a minute, coarse
    python tests/benchmarks/overhead.py --json out.json

The three train the same model (MLP 32→32→2 with ReLU, batch 32, SGD, one thread) on the same list of
batches, in alternation: a round runs one block of steps of each in random order, and every figure is the
median over rounds, so that a machine which is busy for a while slows all three alike. Figures are by the wall
clock and, in parentheses, by the process's CPU time, which other processes disturb less. The clocks are read
in the data iterable, after a warm-up: setup and the ends of epochs are not in a step's time, logging every
50 steps, drawing the progress bar and Python's garbage collection are.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import importlib
import json
import logging
import os
import platform
import random
import struct
import subprocess
import sys
import tempfile
import termios
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is imported, here and in the processes started below
os.environ.setdefault("TERM", "xterm-256color")

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

FRAMEWORKS = {"leyden": "leyden", "pytorch_lightning": "pytorch-lightning"}
LOOP = "hand-written loop"
SETTINGS = {
    "bare": "everything off",
    "logged": "progress bar, checkpointing, default logger, `self.log` on step and epoch",
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Batch = tuple[Tensor, Tensor]
Times = dict[str, dict[str, list[float]]]  # by contender and clock: one figure a round


def make_network() -> nn.Sequential:
    """The model of every contender, with the same weights each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))


def make_batches(count: int = 64) -> list[Batch]:
    """The batches that every contender trains on, again and again."""
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(32, 32, generator=generator), torch.randint(2, (32,), generator=generator)) for _ in range(count)
    ]


class TimedBatches:
    """An iterable of batches that notes the times after ``warmup`` batches and after ``steps`` more.

    It hands over whole lists (``yield from``), so that reading the clock costs a step nothing.
    """

    def __init__(self, batches: list[Batch], warmup: int, steps: int) -> None:
        cycle = (batches * (1 + (warmup + steps + 1) // len(batches)))[: warmup + steps + 1]
        self.warm, self.timed, self.last = cycle[:warmup], cycle[warmup:-1], cycle[-1]
        self.seconds = dict.fromkeys(CLOCKS, 0.0)

    def __len__(self) -> int:
        return len(self.warm) + len(self.timed) + 1

    def __iter__(self) -> Iterator[Batch]:
        yield from self.warm
        start = {name: clock() for name, clock in CLOCKS.items()}
        yield from self.timed
        self.seconds = {name: clock() - start[name] for name, clock in CLOCKS.items()}
        yield self.last  # a framework that knows the length asks for no more batches than there are


def train_by_hand(batches: TimedBatches) -> None:
    """The loop that everybody writes."""
    network = make_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for x, y in batches:
        loss = cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def make_module(pl: Any, logged: bool) -> Any:
    """The same model as a LightningModule of ``pl``."""

    class Model(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = make_network()

        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            x, y = batch
            return cross_entropy(self.network(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    class LoggingModel(Model):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss, on_step=True, on_epoch=True)
            return loss

    return LoggingModel() if logged else Model()


def train_in_framework(pl: Any, setting: str, batches: TimedBatches, directory: str, module: Any = None) -> None:
    """One epoch in ``pl``; "logged" takes the framework's own progress bar, checkpoint callback and logger."""
    on = setting == "logged"
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        default_root_dir=directory,
        logger=on,
        enable_progress_bar=on,
        enable_checkpointing=on,
        enable_model_summary=False,
    )
    trainer.fit(module or make_module(pl, logged=on), batches)


@contextmanager
def terminal() -> Iterator[None]:
    """Standard output and error are a terminal of 100 columns that another process reads and forgets."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    reader = subprocess.Popen(["cat"], stdin=master, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(master)
    saved = os.dup(1), os.dup(2)
    os.dup2(slave, 1)
    os.dup2(slave, 2)
    os.close(slave)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for target, original in enumerate(saved, start=1):
            os.dup2(original, target)
            os.close(original)
        reader.wait()  # the last writer has let go of the terminal


def time_block(name: str, pl: Any, setting: str, batches: TimedBatches) -> dict[str, float]:
    """µs per step of one block, by clock."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # collections within the block walk through what the block itself has made, not through the imports
    with tempfile.TemporaryDirectory() as directory:
        if name == LOOP:
            train_by_hand(batches)
        else:
            train_in_framework(pl, setting, batches, directory)
    return {clock: seconds / len(batches.timed) * 1e6 for clock, seconds in batches.seconds.items()}


def time_steps(setting: str, rounds: int, warmup: int, steps: int) -> Times:
    """µs per step; the first round warms up and is not kept."""
    contenders = {LOOP: None, **{name: importlib.import_module(name) for name in FRAMEWORKS}}
    batches, order, shuffle = make_batches(), list(contenders), random.Random(0)
    times: Times = {name: {clock: [] for clock in CLOCKS} for name in contenders}
    with terminal():
        for round_ in range(rounds + 1):
            shuffle.shuffle(order)
            for name in order:
                micros = time_block(name, contenders[name], setting, TimedBatches(batches, warmup, steps))
                for clock, figure in micros.items() if round_ else ():
                    times[name][clock].append(figure)
    return times


LOGGED = {
    "in a training step, as it comes": {},
    "on step and epoch": {"on_step": True, "on_epoch": True},
}


def time_log_calls(rounds: int, calls: int = 200) -> dict[str, dict[str, float]]:
    """µs of CPU of one ``self.log`` call by options: the tensor arithmetic that it needs, and all of each framework's.

    The least of many blocks of calls, as nothing but another process can make one slower. The arithmetic is that
    of a value of its own (detached and copied) and, for an epoch, of its weighted sum.
    """
    figures: dict[str, dict[str, float]] = {}
    for title, options in LOGGED.items():
        figures[title] = {"arithmetic": time_arithmetic(rounds, calls, epoch=bool(options))}
        for name in FRAMEWORKS:
            pl, blocks = importlib.import_module(name), []

            class Model(make_module(pl, logged=False).__class__):  # type: ignore[misc]
                def training_step(self, batch: Batch, batch_idx: int, *, options: Any = options) -> Tensor:
                    loss = super().training_step(batch, batch_idx)
                    start = time.thread_time()
                    for _ in range(calls):
                        self.log("loss", loss, **options)
                    self.blocks.append((time.thread_time() - start) / calls * 1e6)
                    return loss

            Model.blocks = blocks
            train_in_framework(pl, "bare", TimedBatches(make_batches(), 0, rounds), tempfile.gettempdir(), Model())
            figures[title][name] = min(blocks)
    return figures


def time_arithmetic(rounds: int, calls: int, epoch: bool) -> float:
    """µs of CPU of what a logged loss needs of tensor arithmetic."""
    loss, total = torch.rand((), requires_grad=True) * 1, torch.zeros(())
    blocks = []
    for _ in range(rounds):
        start = time.thread_time()
        for _ in range(calls):
            value = loss.detach().clone()
            if epoch:
                total = total + value * 32
        blocks.append((time.thread_time() - start) / calls * 1e6)
    return min(blocks)


IMPORT_CODE = """
import time, torch
wall, cpu = time.perf_counter(), time.process_time()
import {module}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def time_imports(repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds that importing each framework takes where torch is imported already, wall clock and CPU."""
    runs: dict[str, list[list[float]]] = {name: [] for name in FRAMEWORKS}
    for _ in range(repeats):
        for name in FRAMEWORKS:
            command = [sys.executable, "-W", "ignore", "-c", IMPORT_CODE.format(module=name)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            runs[name].append([1e3 * float(seconds) for seconds in printed.split()])
    return {
        name: {clock: median(run[i] for run in runs[name]) for i, clock in enumerate(("wall", "cpu"))} for name in runs
    }


def time_first_step(repeats: int) -> dict[str, float]:
    """Seconds from the start of a process to the end of its first training step, with the Trainer's defaults on."""
    runs: dict[str, list[float]] = {name: [] for name in (LOOP, *FRAMEWORKS)}
    for _ in range(repeats):
        for name, seconds in runs.items():
            with tempfile.TemporaryDirectory() as directory, terminal():
                clock = Path(directory, "clock")
                start = time.time()
                subprocess.run([sys.executable, __file__, "--first-step", name, str(clock)], check=True)
                seconds.append(float(clock.read_text()) - start)
    return {name: median(seconds) for name, seconds in runs.items()}


def first_step(name: str, clock: Path) -> None:
    """Train one batch and write the time to ``clock`` when the second is asked for; runs in a process of its own."""

    def batches() -> Iterator[Batch]:
        first, second = make_batches(2)
        yield first
        clock.write_text(repr(time.time()))
        yield second

    class Batches:
        def __iter__(self) -> Iterator[Batch]:
            return batches()

        def __len__(self) -> int:
            return 2

    data: Any = Batches()
    if name == LOOP:
        train_by_hand(data)
    else:
        train_in_framework(importlib.import_module(name), "logged", data, str(clock.parent))


def summarise(times: Times) -> dict[str, dict[str, dict[str, float]]]:
    """Medians over rounds, by contender and clock; overheads are over the loop of the same round."""
    summary: dict[str, dict[str, dict[str, float]]] = {name: {} for name in times}
    for clock in CLOCKS:
        loop = times[LOOP][clock]
        overheads = {name: [a - b for a, b in zip(times[name][clock], loop, strict=True)] for name in FRAMEWORKS}
        summary[LOOP][clock] = {"step_us": median(loop)}
        for name, overhead in overheads.items():
            summary[name][clock] = {
                "step_us": median(times[name][clock]),
                "overhead_us": median(overhead),
                "overhead_of_step": median(map(truediv, overhead, loop)),
                "overhead_of_lightning": median(map(truediv, overhead, overheads["pytorch_lightning"])),
            }
    return summary


def report(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [f"{result['machine']}; {result['rounds']} rounds of {result['steps']} steps, medians;"]
    lines += ["wall-clock time and, in parentheses, CPU time.", ""]
    lines += ["| a step | | µs | overhead, µs | of the hand-written step | of pytorch-lightning's overhead |"]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: |"]
    for setting, title in SETTINGS.items():
        for name, row in result["steps_us"][setting].items():
            cells = [title, label(name), both_clocks(row, "step_us", "{:.0f}"), "", "", ""]
            if name != LOOP:
                cells[3] = both_clocks(row, "overhead_us", "{:.0f}")
                cells[4] = both_clocks(row, "overhead_of_step", "{:.0%}")
            if name == "leyden":
                cells[5] = both_clocks(row, "overhead_of_lightning", "{:.1%}")
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| a `self.log` call | | µs of CPU | beyond the tensor arithmetic, µs |",
        "| --- | --- | ---: | ---: |",
    ]
    for title, row in result["log_us"].items():
        lines.append(f"| {title} | tensor arithmetic alone | {row['arithmetic']:.1f} |  |")
        for name in FRAMEWORKS:
            lines.append(f"| {title} | {label(name)} | {row[name]:.1f} | {row[name] - row['arithmetic']:.1f} |")
    lines += ["", "| a start | import beyond torch, ms | process start to first step done, s |"]
    lines += ["| --- | ---: | ---: |"]
    for name, seconds in result["first_step_s"].items():
        imported = "{wall:.0f} ({cpu:.0f})".format(**result["import_ms"][name]) if name in FRAMEWORKS else ""
        lines.append(f"| {label(name)} | {imported} | {seconds:.2f} |")
    return "\n".join(lines)


def both_clocks(row: dict[str, dict[str, float]], figure: str, form: str) -> str:
    """A figure by the wall clock and, in parentheses, by CPU time."""
    return f"{form.format(row['wall'][figure])} ({form.format(row['cpu'][figure])})"


def label(name: str) -> str:
    """A contender's name and version."""
    return f"{FRAMEWORKS[name]} {version(distribution(name))}" if name in FRAMEWORKS else name


def distribution(module: str) -> str:
    """The distribution whose version is the framework's."""
    return "leyden-core" if module == "leyden" else FRAMEWORKS[module]


def machine() -> str:
    """Processor and versions, as one phrase."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    processor = models[0].partition(":")[2].strip() if models else platform.machine()
    return f"{processor}, one thread, Python {platform.python_version()}, torch {torch.__version__}"


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(description="Time steps, imports and starts side by side.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure, by round, to FILE")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: coarse figures")
    parser.add_argument("--first-step", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    if arguments.first_step:
        first_step(arguments.first_step[0], Path(arguments.first_step[1]))
        return
    rounds, warmup, steps, starts = (3, 30, 150, 1) if arguments.quick else (15, 50, 300, 3)
    rounds_us = {setting: time_steps(setting, rounds, warmup, steps) for setting in SETTINGS}
    result = {
        "machine": machine(),
        "rounds": rounds,
        "steps": steps,
        "steps_us": {setting: summarise(times) for setting, times in rounds_us.items()},
        "log_us": time_log_calls(10 if arguments.quick else 50),
        "import_ms": time_imports(starts),
        "first_step_s": time_first_step(starts),
        "rounds_us": rounds_us,
    }
    print(report(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

"""For Leyden's own tests: a model that breaks at a place of one's choice in one rank, and what is left then."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from leyden_testing.forking import PATIENCE, is_alive
from leyden_testing.reporting import Validated, loader, quiet
from leyden_testing.training import Rows


class Broken(ValueError):
    """An error of a type of its own, which takes more arguments than its message."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what, code)


def run_out_of_memory() -> None:
    """Ask for more memory than this process may have."""
    limit, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, hard))
    try:
        torch.zeros(2**30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def fail() -> None:
    """Raise :class:`Broken`."""
    raise Broken("it broke", 7)


WAYS: dict[str, Callable[[], Any]] = {
    "raises": fail,
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exits": lambda: os._exit(3),
    "leaves": lambda: sys.exit(5),
    "has no memory": run_out_of_memory,
    "is interrupted": lambda: os.kill(os.getpid(), signal.SIGINT),
}


class Breaking(Validated):
    """A model that breaks at the second batch, or whenever else it comes to ``where``.

    Args:
        directory: Where each process writes down its id, and the one that breaks when it does.
        where: A hook's name.
        how: A key of :data:`WAYS`, or what to do.
        rank: Which rank breaks.
    """

    def __init__(self, directory: Path, where: str, how: str | Callable[[], Any] = "raises", rank: int = 1) -> None:
        super().__init__()
        self.directory, self.where, self.rank = directory, where, rank
        self.way = WAYS[how] if isinstance(how, str) else how

    def come_to(self, place: str, batch_idx: int = 1) -> Any:
        """Break, if this is the place."""
        if place != self.where or batch_idx != 1 or self.global_rank != self.rank:
            return None
        (self.directory / "broke").write_text(str(time.time()))
        return self.way()

    def setup(self, stage: str) -> None:
        """Write down the process's id."""
        self.directory.mkdir(exist_ok=True)
        (self.directory / f"pid-{self.global_rank}").write_text(str(os.getpid()))
        self.come_to("setup")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        """A place."""
        return self.come_to("on_train_batch_start", batch_idx)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Three places."""
        self.come_to("training_step", batch_idx)
        loss = super().training_step(batch, batch_idx)
        if self.where == "backward" and self.global_rank == self.rank and batch_idx == 1:
            first: Any = self.layer[0]
            first.weight.register_hook(lambda gradient: self.come_to("backward"))
        return None if self.come_to("end of training_step", batch_idx) == "skip" else loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A place."""
        self.come_to("on_train_batch_end", batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """A place."""
        self.come_to("validation_step", batch_idx)
        super().validation_step(batch, batch_idx)

    def on_train_end(self) -> None:
        """A place."""
        self.come_to("on_train_end")

    def on_fit_end(self) -> None:
        """A place."""
        self.come_to("on_fit_end")

    def on_exception(self, exception: BaseException) -> None:
        """Write down what it is given; a place."""
        (self.directory / f"exception-{self.global_rank}").write_text(f"{type(exception).__name__}: {exception}")
        self.come_to("on_exception")

    def pids(self) -> list[int]:
        """The ids of all processes, in the order of their ranks."""
        return [int(path.read_text()) for path in sorted(self.directory.glob("pid-*"))]

    def told(self, rank: int) -> str:
        """What ``on_exception`` was given in a rank."""
        path = self.directory / f"exception-{rank}"
        return path.read_text() if path.exists() else ""


class BadRows(Rows):
    """Rows of which the first can't be read in one rank: by an error, or because its worker is killed.

    The first, because a worker that dies while it hands over an earlier batch breaks the connection to it, and
    PyTorch then says so in place of naming the worker.
    """

    def __init__(self, how: str, rank: int = 1) -> None:
        super().__init__(16, numbered=True)
        self.how, self.rank = how, rank

    def __getitem__(self, index: Any) -> Any:
        if index == self.rank:
            WAYS[self.how]()
        return super().__getitem__(index)  # type: ignore[no-untyped-call]


def break_in(model: Breaking, train: DataLoader[Any] | None = None, **options: Any) -> BaseException:
    """Fit, and return the error with which it ends; no process may be left, nor may it take long.

    Args:
        model: What is trained.
        train: Its training loader.
        options: Arguments of the Trainer.

    Raises:
        AssertionError: The run did not fail, or took long, or left a process.
    """
    trainer, _ = quiet(model.directory, **options)
    began = time.time()
    try:
        trainer.fit(model, train or loader(16), loader(16))
    except BaseException as error:
        ended = time.time()
        broke = model.directory / "broke"
        took = ended - (float(broke.read_text()) if broke.exists() else began)
        assert took < PATIENCE, f"it took {took:.1f} s"
        assert not any(map(is_alive, model.pids()))
        return error
    raise AssertionError("the run did not fail")

"""For Leyden's own tests: a model that fails at a chosen place in one rank, and checks of what is left then."""

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
    """An error that has its own type and more arguments than its message."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what, code)


def run_out_of_memory() -> None:
    """Limit this process's memory, and allocate more than the limit."""
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
    """A model that fails in one rank: in a hook, or in the hook's second batch if it has batches.

    Args:
        directory: The directory to which each process writes its id, and the failing one the time of the failure.
        where: The hook's name.
        how: A key of :data:`WAYS`, or a function that fails.
        rank: The rank that fails.
    """

    def __init__(self, directory: Path, where: str, how: str | Callable[[], Any] = "raises", rank: int = 1) -> None:
        super().__init__()
        self.directory, self.where, self.rank = directory, where, rank
        self.way = WAYS[how] if isinstance(how, str) else how

    def come_to(self, place: str, batch_idx: int = 1) -> Any:
        """Fail if this is the chosen place, batch and rank."""
        if place != self.where or batch_idx != 1 or self.global_rank != self.rank:
            return None
        (self.directory / "broke").write_text(str(time.time()))
        return self.way()

    def setup(self, stage: str) -> None:
        """Write the process's id; may fail here."""
        self.directory.mkdir(exist_ok=True)
        (self.directory / f"pid-{self.global_rank}").write_text(str(os.getpid()))
        self.come_to("setup")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        """May fail here."""
        return self.come_to("on_train_batch_start", batch_idx)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Train; may fail at the start, in the backward pass or at the end."""
        self.come_to("training_step", batch_idx)
        loss = super().training_step(batch, batch_idx)
        if self.where == "backward" and self.global_rank == self.rank and batch_idx == 1:
            first: Any = self.layer[0]
            first.weight.register_hook(lambda gradient: self.come_to("backward"))
        return None if self.come_to("end of training_step", batch_idx) == "skip" else loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """May fail here."""
        self.come_to("on_train_batch_end", batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """May fail here."""
        self.come_to("validation_step", batch_idx)
        super().validation_step(batch, batch_idx)

    def on_train_end(self) -> None:
        """May fail here."""
        self.come_to("on_train_end")

    def on_fit_end(self) -> None:
        """May fail here."""
        self.come_to("on_fit_end")

    def teardown(self, stage: str) -> None:
        """May fail here."""
        self.come_to("teardown")

    def on_exception(self, exception: BaseException) -> None:
        """Write the exception; may fail here."""
        (self.directory / f"exception-{self.global_rank}").write_text(f"{type(exception).__name__}: {exception}")
        self.come_to("on_exception")

    def pids(self) -> list[int]:
        """Return the ids of all processes, in the order of their ranks."""
        return [int(path.read_text()) for path in sorted(self.directory.glob("pid-*"))]

    def told(self, rank: int) -> str:
        """Return the exception that ``on_exception`` was given in a rank, as text; "" if it was not called."""
        path = self.directory / f"exception-{rank}"
        return path.read_text() if path.exists() else ""


class BadRows(Rows):
    """Rows of which the first that one rank reads fails.

    It is the first because a worker that dies while it hands over an earlier batch breaks the connection. PyTorch
    then reports the connection and not the worker.

    Args:
        how: A key of :data:`WAYS`.
        rank: The rank that fails.
    """

    def __init__(self, how: str, rank: int = 1) -> None:
        super().__init__(16, numbered=True)
        self.how, self.rank = how, rank

    def __getitem__(self, index: Any) -> Any:
        if index == self.rank:
            WAYS[self.how]()
        return super().__getitem__(index)  # type: ignore[no-untyped-call]


def break_in(model: Breaking, train: DataLoader[Any] | None = None, **options: Any) -> BaseException:
    """Run a fit that must fail soon and leave no process, and return its error.

    Args:
        model: The model to train.
        train: The training loader; by default 16 rows.
        options: Further arguments of the Trainer.

    Returns:
        The error with which the fit ends.

    Raises:
        AssertionError: The run did not fail, took too long to end, or left a process.
    """
    trainer, _ = quiet(model.directory, **options)
    began = time.time()
    try:
        trainer.fit(model, train or loader(16), loader(16))
    except BaseException as error:
        ended = time.time()
        broke = model.directory / "broke"
        took = ended - (float(broke.read_text()) if broke.exists() else began)
        assert took < PATIENCE, f"the run ended only {took:.1f} s after the failure"
        assert not any(map(is_alive, model.pids()))
        return error
    raise AssertionError("the run did not fail")

"""Real processes for checks: a function run on every rank, and what each of them returned."""

from __future__ import annotations

import os
import random
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # strategies and optimizers import it, and each forked process would anew
import torch.multiprocessing as multiprocessing


def on_ranks(
    count: int, function: Callable[..., Any], *args: Any, variables: dict[str, str] | None = None, seconds: float = 120
) -> list[Any]:
    """What ``function(*args)`` returns on each of so many ranks, forked from this process.

    In it a Trainer finds that the processes are there already, by the variables that ``torch.distributed`` knows:
    ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``.

    Args:
        count: How many.
        function: What each runs; what it returns has to pickle.
        args: Its arguments.
        variables: Further variables of the processes.
        seconds: After which processes that still run are ended, which fails.
    """
    with tempfile.TemporaryDirectory() as directory:
        arguments = (function, args, count, free_port(), variables or {}, directory)
        processes = multiprocessing.start_processes(_rank, arguments, count, join=False, start_method="fork")
        until = time.monotonic() + seconds
        try:
            while not processes.join(timeout=max(0.1, until - time.monotonic())):
                assert time.monotonic() < until, f"the {count} processes did not end within {seconds:g} s"
        finally:
            for process in processes.processes:
                process.kill()
                process.join()
        return [torch.load(Path(directory, str(rank)), weights_only=False) for rank in range(count)]


def _rank(
    rank: int,
    function: Callable[..., Any],
    args: Any,
    count: int,
    port: int,
    variables: dict[str, str],
    directory: str,
) -> None:
    meeting = {"LOCAL_RANK": rank, "RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in meeting.items()} | variables)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)  # a forked process does not have the threads that its parent has started
    result = function(*args)
    torch.save(result, Path(directory, str(rank)))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def free_port() -> int:
    """A TCP port of this host that nothing listened on a moment ago.

    It is not one that systems give to outgoing connections, of which one may take it before the processes meet there.
    """
    for number in random.SystemRandom().sample(range(20000, 30000), 100):  # which leaves the seeds as they are
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", number))
            return number
    raise RuntimeError("None of 100 ports between 20000 and 30000 is free on this host; end what listens on them")

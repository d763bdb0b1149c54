"""Runs a function in several processes, for the checks of strategies and records."""

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
import torch._dynamo  # imported here once, since otherwise each forked process would import it
import torch.multiprocessing as multiprocessing


def on_ranks(
    count: int, function: Callable[..., Any], *args: Any, variables: dict[str, str] | None = None, seconds: float = 120
) -> list[Any]:
    """Run ``function(*args)`` in several forked processes and return each one's result.

    The processes have the environment variables of ``torch.distributed``: ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``,
    ``MASTER_ADDR`` and ``MASTER_PORT``. A Trainer therefore does not start further processes.

    Args:
        count: The number of processes.
        function: The function; its result must be picklable.
        args: The function's arguments.
        variables: Further environment variables of the processes.
        seconds: After this time the processes are killed and the check fails.

    Returns:
        The results in the order of the ranks.
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
    rendezvous = {
        "LOCAL_RANK": rank,
        "RANK": rank,
        "WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in rendezvous.items()} | variables)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)  # a forked process does not have its parent's threads
    result = function(*args)
    torch.save(result, Path(directory, str(rank)))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def free_port() -> int:
    """Return a TCP port of this machine that is free now.

    It is outside the range for outgoing connections, one of which could otherwise take it before the processes do.
    """
    for number in random.SystemRandom().sample(range(20000, 30000), 100):  # does not change the seeded generators
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", number))
            return number
    raise RuntimeError("None of 100 ports between 20000 and 30000 is free; end the processes that listen on them.")

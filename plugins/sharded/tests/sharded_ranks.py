"""Real processes for tests: a function run on every rank of a process group, and what each of them returned."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # FSDP and DistributedDataParallel import it, and each forked process would anew
import torch.multiprocessing as multiprocessing

import leyden_sharded.fsdp
import leyden_sharded.zero_1  # noqa: F401 - imported for the forked processes, as is what it imports
from leyden_ddp.environments.variables import free_port


def on_ranks(count: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What ``function(*args)`` returns on each of so many ranks; in it, Trainers find the processes started."""
    with tempfile.TemporaryDirectory() as directory:
        arguments = (function, args, count, free_port(), directory)
        multiprocessing.start_processes(_rank, arguments, nprocs=count, start_method="fork")
        paths = [Path(directory, str(rank)) for rank in range(count)]
        return [torch.load(path, weights_only=False) for path in paths]


def _rank(rank: int, function: Callable[..., Any], args: Any, count: int, port: int, directory: str) -> None:
    variables = {"LOCAL_RANK": rank, "RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()})
    warnings.simplefilter("error")
    torch.save(function(*args), Path(directory, str(rank)))
    torch.distributed.destroy_process_group()

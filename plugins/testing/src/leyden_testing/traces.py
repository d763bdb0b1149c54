"""Finds what a run leaves behind in its process: changed settings, threads, child processes and open files."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

PATIENCE = 60.0
"""The time in seconds within which resources are gone, even on a busy machine."""


def settings() -> dict[str, Any]:
    """Return all global settings that a run may change but must restore, by name."""
    found: dict[str, Any] = {
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.get_default_device()": torch.get_default_device(),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.is_inference_mode_enabled()": torch.is_inference_mode_enabled(),
        "torch.is_anomaly_enabled()": torch.is_anomaly_enabled(),
        "torch.is_autocast_enabled('cpu')": torch.is_autocast_enabled("cpu"),
        "torch.are_deterministic_algorithms_enabled()": torch.are_deterministic_algorithms_enabled(),
        "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision(),
        "torch.get_num_threads()": torch.get_num_threads(),
        "torch.backends.cudnn.benchmark": torch.backends.cudnn.benchmark,
        "torch.distributed.is_initialized()": torch.distributed.is_initialized(),
        "the working directory": Path.cwd(),
        "sys.path": tuple(sys.path),
        "sys.stdout": sys.stdout,
        "sys.stderr": sys.stderr,
        "sys.excepthook": sys.excepthook,
        "threading.excepthook": threading.excepthook,
        "the root logger's handlers": tuple(logging.getLogger().handlers),
    }
    found.update({f"the environment variable {name}": value for name, value in os.environ.items()})
    found.update({f"the handler of {number!r}": signal.getsignal(number) for number in signal.valid_signals()})
    return found


def open_resources() -> list[str]:
    """Return the threads, child processes and open files of this process, as far as this system can list them."""
    threads = [f"the thread {thread.name!r}" for thread in threading.enumerate()]
    children = [f"the child process {child.name!r}" for child in multiprocessing.active_children()]
    listed = Path("/proc/self/task", str(threading.get_native_id()), "children")
    if listed.exists():
        children = [f"the child process {number}" for number in listed.read_text().split()]
    return [*threads, *children, *open_files()]


def open_files() -> list[str]:
    """Return the open files of this process; an empty list if the system can't list them."""
    found = []
    for entry in Path("/proc/self/fd").glob("*"):
        try:
            target = str(entry.readlink())
        except OSError:  # the descriptor of the listing itself
            continue
        found.append(f"the open file {target.partition(':')[0] if ':' in target else target}")
    return sorted(found)


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return a text for each setting that differs."""
    missing = object()
    return [
        f"{name} was {before.get(name, 'not set')!r} and is {after.get(name, 'not set')!r}"
        for name in {**before, **after}
        if before.get(name, missing) != after.get(name, missing)
    ]


def left_behind(before: list[str]) -> list[str]:
    """Return the resources that are open now but were not before.

    A thread may open a file for a moment, and an ending thread may need time. The comparison is therefore repeated
    until nothing is left, for at most ``PATIENCE`` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    while (more := added(before, open_resources())) and time.monotonic() < deadline:
        time.sleep(0.01)
    return more


def added(before: list[str], after: list[str]) -> list[str]:
    """Return the items of ``after`` that are not in ``before``; repeated items are counted."""
    left = list(before)
    more = []
    for item in after:
        if item in left:
            left.remove(item)
        else:
            more.append(item)
    return more

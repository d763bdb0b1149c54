"""How the processes of a run find each other, and what is said when some do not come, or have other plugins."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from leyden.interfaces.environment import Environment
from leyden.interfaces.strategy import Strategy
from leyden.plugin_system.manager import PluginManager
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_info
from leyden_ddp.watch import end_watch

PARENT = "LEYDEN_PARENT_PROCESS"  # the process that runs as rank 0 of the node, in those that it has started
_POLLS = (0.005, 0.25)  # seconds between two looks at who has come: at first, and at most
_ANSWER = 30.0  # seconds in which what listens at the meeting's port must answer as a store does
_PARTING = 3.0  # seconds in which a process group may end


class MeetingError(RuntimeError):
    """The processes of a run did not find each other; the message says who is missing, or what is in the way.

    Attributes:
        brief: What the process prints in place of a traceback if it ends with this error; None prints it in full.
    """

    brief: str | None = None


def meet(
    environment: Environment,
    backend: str,
    timeout: timedelta,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Set up the default process group with every process of the run.

    Args:
        environment: Who this process is, and where all meet.
        backend: The backend of ``torch.distributed``.
        timeout: How long to wait for the last to come, and in each collective afterwards.
        device: This process's device; a backend that binds one to a process is told.
        check: Raises if it is known that some process will not come.

    Raises:
        MeetingError: The port is in use, rank 0 can't be reached, or processes did not come in time.
    """
    rank, size = environment.global_rank(), environment.world_size()
    waiting = _Waiting(timeout, check)
    store = _store(environment, waiting)
    _wait_for_all(store, rank, size, waiting)
    bound: dict[str, Any] = {"device_id": device} if backend == "nccl" else {}
    with _hint_at_networks(backend):
        dist.init_process_group(
            backend, store=dist.PrefixStore("group", store), rank=rank, world_size=size, timeout=timeout, **bound
        )
    rank_zero_info(f"{size} processes have met through {backend}.")


class _Waiting:
    """Waits for something until a timeout, or until it is known that it will not come."""

    def __init__(self, timeout: timedelta, check: Callable[[], None]) -> None:
        self.timeout, self._check = timeout, check
        self.seconds = f"{timeout.total_seconds():g} s"
        self._until = time.monotonic() + timeout.total_seconds()

    def until(self, has_come: Callable[[], bool], at_most: float = float("inf")) -> bool:
        """Whether it came in time, and in so many seconds."""
        pause, until = _POLLS[0], min(self._until, time.monotonic() + at_most)
        while not has_come():
            self._check()
            _refuse_without_parent()
            if time.monotonic() > until:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _POLLS[1])
        return True


def _refuse_without_parent() -> None:
    """Raise in a process whose starter is gone, so that it waits for nobody as an orphan."""
    parent = os.environ.get(PARENT)
    if parent is not None and os.getppid() != int(parent):
        raise MeetingError(f"The process {parent}, which started this one for its run, is gone, so this one ends too.")


def _store(environment: Environment, waiting: _Waiting) -> dist.Store:
    """The key-value store of rank 0, or of the launcher where it has one."""
    address, port = environment.main_address, environment.main_port
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)  # users and libraries read them
    launchers = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    hosts = environment.global_rank() == 0 and not launchers
    store = _open(address, port, waiting) if hosts else _reach(address, port, environment.global_rank(), waiting)
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_STEP_ID")
    run = "/".join(os.environ.get(name, "") for name in names)  # another's store at that port is not mistaken for ours
    return dist.PrefixStore(f"leyden/{run}/{environment.world_size()}", store)


def _open(address: str, port: int, waiting: _Waiting) -> dist.Store:
    try:
        return dist.TCPStore(address, port, is_master=True, timeout=waiting.timeout, wait_for_workers=False)
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error) and "in use" not in str(error):
            raise
        raise MeetingError(
            f"Port {port} of {address}, where the processes should meet, is in use; set MASTER_PORT to a free one."
        ) from None


def _reach(address: str, port: int, rank: int, waiting: _Waiting) -> dist.Store:
    """The store at an address, as soon as something listens there.

    PyTorch's own client can't be asked to give up, says so at length when it does, and waits for ever for an answer
    of something else that listens at the port; so it is called late, and in a thread.
    """
    if not waiting.until(lambda: _listens(address, port)):
        raise MeetingError(
            f"Rank {rank} does not reach rank 0 at {address}:{port} within {waiting.seconds}; is it running, and are "
            "MASTER_ADDR and MASTER_PORT the same everywhere?"
        )
    made: list[dist.Store | Exception] = []

    def connect() -> None:
        try:
            made.append(dist.TCPStore(address, port, is_master=False, timeout=waiting.timeout, wait_for_workers=False))
        except Exception as error:
            made.append(error)

    threading.Thread(target=connect, daemon=True).start()
    waiting.until(lambda: bool(made), _ANSWER)
    if not made or isinstance(made[0], Exception):
        raise MeetingError(
            f"Rank {rank} finds something at {address}:{port} that is not the store of rank 0; set MASTER_PORT to a "
            f"free port, the same everywhere."
        )
    return made[0]


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _wait_for_all(store: dist.Store, rank: int, size: int, waiting: _Waiting) -> None:
    store.set(f"here/{rank}", "")
    store.add("here", 1)
    gave_up = False

    def is_over() -> bool:
        nonlocal gave_up
        gave_up = store.check(["gave up"])
        return gave_up or store.add("here", 0) >= size

    if waiting.until(is_over) and not gave_up:
        return
    missing = [other for other in range(size) if not store.check([f"here/{other}"])]
    error = MeetingError(
        f"After {waiting.seconds}, {size - len(missing)} of {size} processes have come; missing: rank "
        f"{', '.join(map(str, missing))}. Start them, or see why they ended."
    )
    if rank != 0 and 0 not in missing:
        error.brief = ""  # rank 0 says the same
    store.set("gave up", "")
    if rank == 0:
        time.sleep(2 * _POLLS[1])  # the others read that and who is missing, before the store is gone
    raise error


@contextmanager
def _hint_at_networks(backend: str) -> Generator[None, None, None]:
    """A block that connects the processes, which waits for ever where they choose networks that do not meet."""
    message = (
        f"The processes have met, but {backend} has not connected them within {_ANSWER:g} s; where there are several "
        f"networks set {'NCCL' if 'nccl' in backend else 'GLOO'}_SOCKET_IFNAME to the one that joins them."
    )
    hint = threading.Timer(_ANSWER, rank_zero_info, [message])
    hint.daemon = True
    hint.start()
    try:
        yield
    finally:
        hint.cancel()


def leave() -> None:
    """Leave the other processes, where they have met; at the end of the program."""
    end_watch()
    if not dist.is_initialized():
        return

    def destroy() -> None:
        with suppress(Exception):  # the others may be gone already
            dist.destroy_process_group()

    ending = threading.Thread(target=destroy, daemon=True)  # after a failure it may wait for a collective for ever
    ending.start()
    ending.join(_PARTING)


def compare_plugins(plugins: PluginManager, strategy: Strategy) -> None:
    """Refuse processes whose active plugins are not those of rank 0, in the same order; called by all.

    Args:
        plugins: Those of this process.
        strategy: Through which the processes talk.

    Raises:
        MisconfigurationException: Some have others.
    """
    sets = strategy.all_gather_object([str(record) for record in plugins.infos if record.state == "active"])
    others = [rank for rank, own in enumerate(sets) if own != sets[0]]
    if not others:
        return
    here, there = ([name for name in sets[a] if name not in sets[b]] for a, b in ((0, others[0]), (others[0], 0)))
    if not here and not there:
        here, there = sets[0], sets[others[0]]
    raise MisconfigurationException(
        f"The plugins of rank {', '.join(map(str, others))} are not those of rank 0, or not in the same order: rank 0 "
        f"has {', '.join(here) or 'no more'} where rank {others[0]} has {', '.join(there) or 'nothing'}; install and "
        "disable the same on every machine."
    )

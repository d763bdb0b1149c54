"""How the processes of a run connect, and the errors when some are missing or have other plugins."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from leyden.plugins import Environment, PluginManager
from leyden.strategies import Strategy
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_info
from leyden_ddp.watch import end_watch

PARENT = "LEYDEN_PARENT_PROCESS"  # a variable with the id of the process that has started this one
_POLLS = (0.005, 0.25)  # seconds between two looks at which processes have come: the first pause and the longest
_ANSWER = 20.0  # seconds in which the store must answer, in which all should come, and the backend connect them
_PARTING = 3.0  # seconds that a process group has to end
_exchange: tuple[Any, Any] | None = None  # the process group, and the second one beside it


class MeetingError(RuntimeError):
    """The processes of a run could not connect; the message says which are missing, or what prevents it.

    Attributes:
        brief: What the process prints instead of the traceback if this error ends it; None prints the traceback.
    """

    brief: str | None = None


def meet(environment: Environment, timeout: timedelta, check: Callable[[], None] = lambda: None) -> dist.Store:
    """Wait until every process of the run has come.

    Args:
        environment: Says which process this is, and at which address all meet.
        timeout: How long to wait for the last process.
        check: Raises if a process is known to have ended before it came.

    Returns:
        The store through which they exchange what they need to connect.

    Raises:
        MeetingError: The port is in use, rank 0 can't be reached, or not all processes came in time.
    """
    rank, size = environment.global_rank(), environment.world_size()
    waiting = _Waiting(timeout, check)
    store = _store(environment, waiting)
    _wait_for_all(store, rank, size, waiting)
    return dist.PrefixStore("group", store)


def connect(store: dist.Store, backend: str, rank: int, size: int, timeout: timedelta, device: torch.device) -> None:
    """Set up the default process group with every process of the run.

    Args:
        store: What :func:`meet` returned.
        backend: The backend of ``torch.distributed``.
        rank: The rank of this process.
        size: The number of processes.
        timeout: How long to wait in each collective.
        device: The device of this process, for a backend that binds processes to devices.
    """
    bound: dict[str, Any] = {"device_id": device} if backend == "nccl" else {}
    with _hint_at_networks(backend):
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout, **bound)
    rank_zero_info(f"{size} processes have met through {backend}.")


def exchange_group() -> Any:
    """A second group of all processes, for what strategies exchange beside gradients; all of them call this together.

    A rank that comes to such an exchange while another exchanges gradients then waits, which the watch sees. In one
    group gloo would take the data of one for those of the other, and end the process. With other backends it is None,
    the first group: two groups at once are not safe there.
    """
    global _exchange
    if _exchange is None or _exchange[0] is not dist.group.WORLD:
        _exchange = dist.group.WORLD, dist.new_group() if dist.get_backend() == "gloo" else None
    return _exchange[1]


class _Waiting:
    """Waits for something until a timeout, or until ``check`` raises because it will not happen."""

    def __init__(self, timeout: timedelta, check: Callable[[], None]) -> None:
        self.timeout, self._check = timeout, check
        self.seconds = f"{timeout.total_seconds():g} s"
        self._until = time.monotonic() + timeout.total_seconds()

    def until(self, has_come: Callable[[], bool], at_most: float = float("inf"), say: Callable[[], str] = str) -> bool:
        """Wait for something.

        Args:
            has_come: Returns whether it has come.
            at_most: How many seconds to wait, if that is less than the timeout.
            say: Returns what is said if it has not come soon, or "".

        Returns:
            Whether it has come.
        """
        began = time.monotonic()
        pause, until, is_said = _POLLS[0], min(self._until, began + at_most), False
        while not has_come():
            self._check()
            _refuse_without_parent()
            if time.monotonic() > until:
                return False
            if not is_said and time.monotonic() > began + _ANSWER:
                is_said = True
                if text := say():
                    print(f"{text} The wait ends after {self.seconds}.", file=sys.stderr, flush=True)
            time.sleep(pause)
            pause = min(2 * pause, _POLLS[1])
        return True


def _refuse_without_parent() -> None:
    """Raise in a process whose parent is gone, so that it does not wait for processes that will not come."""
    parent = os.environ.get(PARENT)
    if parent is not None and os.getppid() != int(parent):
        raise MeetingError(f"The process {parent}, which started this one for its run, is gone, so this one ends too.")


def _store(environment: Environment, waiting: _Waiting) -> dist.Store:
    """The key-value store of rank 0, or that of the launcher if it has one."""
    address, port = environment.main_address, environment.main_port
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)  # the user's code and libraries read them
    launchers = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    hosts = environment.global_rank() == 0 and not launchers
    store = _open(address, port, waiting) if hosts else _reach(address, port, environment.global_rank(), waiting)
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_STEP_ID")
    run = "/".join(
        os.environ.get(name, "") for name in names
    )  # so that the store of another run at this port is not used
    return dist.PrefixStore(f"leyden/{run}", store)


def _open(address: str, port: int, waiting: _Waiting) -> dist.Store:
    """Open the store in this process, which is that of rank 0, and see that it is found at the address.

    PyTorch's own client would try that until the timeout.
    """
    try:
        store = dist.TCPStore("127.0.0.1", port, is_master=True, timeout=waiting.timeout, wait_for_workers=False)
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error) and "in use" not in str(error):
            raise
        raise MeetingError(
            f"Port {port} of {address}, where the processes should meet, is in use; set MASTER_PORT to a free one."
        ) from None
    if not waiting.until(lambda: _listens(address, port), _ANSWER):
        reason = "is no address of its machine" if _is_known(address) else "is the name of no machine that it can find"
        raise MeetingError(
            f"Rank 0 waits for the other ranks at MASTER_ADDR={address!r}, MASTER_PORT={port}, and can't be reached "
            f"there itself, so that address {reason}; set MASTER_ADDR to that of the machine of rank 0, or unset it "
            "if there is only one machine."
        )
    return store


def _reach(address: str, port: int, rank: int, waiting: _Waiting) -> dist.Store:
    """The store at an address, once a program listens there.

    PyTorch's own client can't be stopped, prints pages when it fails, and waits for ever if another program than a
    store listens at the port. So it is called only when the port is open, and in a thread.
    """

    def say() -> str:
        unknown = "" if _is_known(address) else ", the name of no machine that it can find"
        return (
            f"Rank {rank} waits for rank 0 at MASTER_ADDR={address!r}{unknown}, MASTER_PORT={port}, where nobody "
            "answers; see that rank 0 is running, and that both variables are the same on all ranks."
        )

    if not waiting.until(lambda: _listens(address, port), say=say):
        raise MeetingError(
            f"Rank {rank} has not reached rank 0 at {address}:{port} within {waiting.seconds}; see that rank 0 is "
            "running, and that MASTER_ADDR and MASTER_PORT are the same on all ranks."
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
            f"Another program than rank 0 answers rank {rank} at {address}:{port}; set MASTER_PORT to a free port, the "
            "same on all ranks."
        )
    return made[0]


def _is_known(address: str) -> bool:
    """Whether an address is one, or the name of a machine that can be found."""
    try:
        socket.getaddrinfo(address, None)
    except (OSError, UnicodeError):
        return False
    return True


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except (OSError, UnicodeError):  # UnicodeError: the text can be no name of a machine
        return False
    return True


def _wait_for_all(store: dist.Store, rank: int, size: int, waiting: _Waiting) -> None:
    known = int(store.compare_set("size", "", str(size)))
    if known != size:
        store.set("other size", f"Rank {rank} is one of {size} processes by its devices and num_nodes")
    store.set(f"here/{rank}", "")
    store.add("here", 1)
    gave_up = False

    def is_over() -> bool:
        nonlocal gave_up
        gave_up = store.check(["gave up"]) or store.check(["other size"])
        return gave_up or store.add("here", 0) >= size

    def missing_ranks() -> list[int]:
        return [other for other in range(size) if not store.check([f"here/{other}"])]

    def say() -> str:  # in the process of rank 0 only, in which the store is
        return f"Rank 0 waits for rank {', '.join(map(str, missing_ranks()))}, of {size} ranks." if rank == 0 else ""

    if waiting.until(is_over, say=say) and not gave_up:
        return
    if store.check(["other size"]):
        said = store.get("other size").decode()
        _let_others_read(rank)
        raise MeetingError(f"{said}, and the first rank that came is one of {known}; give all ranks the same.")
    missing = missing_ranks()
    error = MeetingError(
        f"After {waiting.seconds}, {size - len(missing)} of {size} processes have come; missing: rank "
        f"{', '.join(map(str, missing))}. Start them, or find out why they ended."
    )
    if rank != 0 and 0 not in missing:
        error.brief = ""  # rank 0 prints the same
    store.set("gave up", "")
    _let_others_read(rank)
    raise error


def _let_others_read(rank: int) -> None:
    """Wait in rank 0 until the others have read what is wrong, since the store ends with that process."""
    if rank == 0:
        time.sleep(2 * _POLLS[1])


@contextmanager
def _hint_at_networks(backend: str) -> Generator[None, None, None]:
    """A block that connects the processes; a message gives advice if that takes long.

    Where each process chooses another network, connecting waits for ever.
    """
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
    """End the watch and the process group, if there is one; called at the end of the program."""
    end_watch()
    if not dist.is_initialized():
        return

    def destroy() -> None:
        with suppress(Exception):  # the other processes may be gone already
            dist.destroy_process_group()

    ending = threading.Thread(
        target=destroy, daemon=True
    )  # a thread, because after a failure it may wait for a collective for ever
    ending.start()
    ending.join(_PARTING)


def compare_plugins(plugins: PluginManager, strategy: Strategy) -> None:
    """Refuse processes whose active plugins, or their order, differ from those of rank 0; called by all processes.

    Args:
        plugins: The plugins of this process.
        strategy: The strategy through which the processes communicate.

    Raises:
        MisconfigurationException: A process has other plugins.
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

"""FunctionLauncher: processes that run a function, and the end that they come to."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.multiprocessing as multiprocessing

from leyden.interfaces.launcher import Launcher
from leyden.trainer.run import Run
from leyden.utilities.exceptions import MisconfigurationException
from leyden_ddp.failure import ALL, PeerFailedError
from leyden_ddp.meeting import MeetingError, leave
from leyden_ddp.pickling import unpicklable
from leyden_ddp.returned import state_of, take_over
from leyden_ddp.watch import GRACE, INTERVAL, last_words

if TYPE_CHECKING:
    from leyden_ddp.parallel import ParallelStrategy

T = TypeVar("T")
_PATIENCE = 2 * GRACE + 2 * INTERVAL  # seconds in which the others may end when one has failed
_UNGUARDED = 78  # exit code of a process that came to start processes while it imported the script


class FunctionLauncher(Launcher):
    """Starts every process of this node by ``multiprocessing`` and brings back what rank 0 comes to.

    Args:
        strategy: Whose processes; its ``start_method`` is how they start.
    """

    takes_part = False

    def __init__(self, strategy: ParallelStrategy) -> None:
        self._strategy = strategy
        self._directory = ""

    def launch(self, function: Callable[..., T], *args: Any) -> T:
        """Run ``function`` in every process; returns the result of rank 0, and the run is as after one in here.

        Raises:
            MisconfigurationException: Something that the processes need can't be pickled; it is named. Or the script
                has no ``__main__`` guard.
            ProcessExitedException: A process was killed, or ended without a word.
            ProcessRaisedException: A process raised an error that can't be pickled; else the error itself is raised.
        """
        strategy = self._strategy
        assert strategy.environment is not None
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            sys.exit(_UNGUARDED)  # the process that imports the script again; its parent says why
        with tempfile.TemporaryDirectory(prefix="leyden-") as self._directory:
            if strategy.start_method == "fork":
                _refuse_fork_with_device(strategy)
                task: Any = (function, args)
            else:
                task = _pickled(function, args, strategy.start_method)
            port = strategy.environment.main_port
            try:
                context = multiprocessing.start_processes(
                    _worker, (task, port, self._directory), strategy.num_processes, join=False,
                    start_method=strategy.start_method,
                )  # fmt: skip
                with _passing_on_sigterm(context.processes):
                    self._wait(context.processes)
            finally:
                strategy.environment.teardown()
            _raise_first(self._directory, context.processes, strategy.node_rank * strategy.num_processes)
            path = os.path.join(self._directory, "result")
            result, state = torch.load(path, weights_only=False)  # written by our own child a moment ago
        owner = _owner(function)
        if isinstance(owner, Run):
            take_over(owner, state)
        returned: T = result
        return returned

    def check(self) -> None:
        """Raise in one of the processes, before they have met, if another has ended already.

        Raises:
            MeetingError: One has; its rank.
        """
        for rank in range(self._strategy.num_processes):
            if os.path.exists(_record(self._directory, rank)):
                raise MeetingError(f"The process of local rank {rank} ended before the run began.")

    def _wait(self, processes: list[Any]) -> None:
        """Wait for all processes; when one has failed, or the user interrupts, for a short time only."""
        patience = float("inf")
        try:
            while True:
                codes = [process.exitcode for process in processes]
                for rank, process in enumerate(processes):
                    if codes[rank] and not os.path.exists(_record(self._directory, rank)):
                        _write(self._directory, rank, None, _fate(process))
                if any(codes):
                    patience = min(patience, time.monotonic() + _PATIENCE)
                if None not in codes or time.monotonic() > patience:
                    break
                running = [each.sentinel for each, code in zip(processes, codes, strict=True) if code is None]
                try:
                    wait(running, None if patience == float("inf") else INTERVAL)
                except KeyboardInterrupt:  # which the processes get too; a second one ends them
                    if patience < float("inf"):
                        raise
                    patience = time.monotonic() + _PATIENCE
        finally:
            for process in processes:
                process.kill()
                process.join()


@dataclass
class Record:
    """How a process ended that did not end well.

    Args:
        error: What it raised; None if it was killed, or raised what can't be pickled.
        text: The traceback, or what is known of its end.
        has_raised: Whether it raised something.
        is_consequence: Whether another rank failed first.
    """

    error: BaseException | None
    text: str
    has_raised: bool
    is_consequence: bool


def _worker(local_rank: int, task: Any, port: int, directory: str) -> None:
    """One process's part: be the rank, and call the method of a run, or a Fabric, that ``task`` holds."""
    os.environ["MASTER_PORT"] = str(port)
    strategy: ParallelStrategy | None = None
    last_words.append(lambda error: _write(directory, local_rank, error, str(error)))
    try:
        function, args = pickle.loads(task) if isinstance(task, bytes) else task
        owner = _owner(function)
        strategy = owner.strategy
        strategy.take_place(local_rank)
        result = function(*args)
        if local_rank == 0:
            state = state_of(owner) if isinstance(owner, Run) else None
            torch.save((result, state), os.path.join(directory, "result"))
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        if not isinstance(error, Exception):
            _write(directory, local_rank, error, text)
            raise
        _write(directory, local_rank, (strategy.cause if strategy is not None else None) or error, text)
        sys.exit(1)  # the parent tells of it
    finally:
        leave()


def _owner(function: Callable[..., Any]) -> Any:
    """Whose method it is."""
    return function.__self__  # type: ignore[attr-defined]


def _record(directory: str, rank: int) -> str:
    return os.path.join(directory, f"failed-{rank}")


def _write(directory: str, rank: int, error: BaseException | None, text: str) -> None:
    """Write down how a process ended, for the parent; whole or not at all."""
    record = Record(error, text, error is not None, isinstance(error, (PeerFailedError, MeetingError)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        record.error = None
    path = _record(directory, rank)
    with open(f"{path}~", "wb") as file:
        pickle.dump(record, file)
    os.replace(f"{path}~", path)


def _fate(process: Any) -> str:
    code = process.exitcode
    if code >= 0:
        return f"ended with code {code} without a word."
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hints = {
        "SIGKILL": ", as the system does when memory runs out",
        "SIGABRT": "; if the message above speaks of a collective, LEYDEN_DEBUG_COLLECTIVES=1 says which ones differ",
    }
    return f"was ended by {name}{hints.get(name, '')}."


def _raise_first(directory: str, processes: list[Any], first_rank: int) -> None:
    """Raise what went wrong first in any process, of its own type, if something did."""
    records: dict[int, Record] = {}
    for local_rank in range(len(processes)):
        with suppress(FileNotFoundError), open(_record(directory, local_rank), "rb") as file:
            records[first_rank + local_rank] = pickle.load(file)  # written by our own child a moment ago
    if not records:
        return
    rank = _first(records)
    record, process = records[rank], processes[rank - first_rank]
    if process.exitcode == _UNGUARDED and not record.has_raised:
        raise MisconfigurationException(
            "Each new process imports the script and came to this run again, so it needs a guard: put what the script "
            'does under `if __name__ == "__main__":`, or take strategy="ddp" or "ddp_fork".'
        )
    raised = multiprocessing.ProcessRaisedException(f"\n\nRank {rank} failed:\n{record.text}", rank, process.pid)
    if record.error is not None:
        raise record.error from (None if isinstance(record.error, (SystemExit, PeerFailedError)) else raised)
    if record.has_raised:
        raise raised
    raise multiprocessing.ProcessExitedException(
        f"The process of rank {rank} {record.text}", rank, process.pid, process.exitcode
    )


def _first(records: dict[int, Record]) -> int:
    """The rank that failed first: the one that another names, else one with an error that is no other's consequence.

    One that is named and names yet another has only seen the consequences, so that the rank that named it knows more.
    """
    for rank, record in records.items():
        if isinstance(record.error, PeerFailedError) and record.error.rank in records:
            named = records[record.error.rank].error
            contradicts = isinstance(named, PeerFailedError) and named.rank != record.error.rank
            return rank if contradicts else record.error.rank
        if isinstance(record.error, PeerFailedError) and record.error.rank == ALL:
            return rank
    own = [rank for rank, record in records.items() if record.has_raised and not record.is_consequence]
    silent = [rank for rank, record in records.items() if not record.has_raised]
    return next(iter([*own, *silent, *records]))


@contextmanager
def _passing_on_sigterm(processes: list[Any]) -> Generator[None, None, None]:
    """A block in which SIGTERM is for the processes, which agree on where to end; a second one ends them at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    asked = False

    def pass_on(number: int, frame: Any) -> None:
        nonlocal asked
        for process in processes:
            process.kill() if asked else process.terminate()
        asked = True

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous if previous is not None else signal.SIG_DFL)


def _refuse_fork_with_device(strategy: ParallelStrategy) -> None:
    module = torch.get_device_module(strategy.root_device.type)
    if getattr(module, "is_initialized", lambda: False)() and strategy.root_device.type != "cpu":
        raise MisconfigurationException(
            f"{strategy.start_method!r} can't start processes once {strategy.root_device.type} is in use in this one; "
            "put no tensor on the device before, or restart the notebook, or take strategy='ddp_spawn'."
        )


def _pickled(function: Callable[..., Any], args: Any, start_method: str) -> bytes:
    """What the processes need, as bytes: ``multiprocessing`` itself would have them share the model's memory."""
    try:
        return pickle.dumps((function, args))
    except Exception as error:
        path, reason = unpicklable((function, args)) or ("Something", str(error))
        raise MisconfigurationException(
            f"{path} can't be pickled, which {start_method!r} needs to bring it to the other processes: {reason}. "
            "Make it in configure_model or setup, or take strategy='ddp' or 'ddp_fork'."
        ) from error

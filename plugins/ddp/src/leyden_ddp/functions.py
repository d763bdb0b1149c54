"""FunctionLauncher: processes that run a function, and how each of them ended."""

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

from leyden.plugins import Run
from leyden.strategies import Launcher
from leyden.utilities.exceptions import MisconfigurationException
from leyden_ddp.failure import ALL, PeerFailedError
from leyden_ddp.meeting import MeetingError, leave
from leyden_ddp.pickling import unpicklable
from leyden_ddp.returned import state_of, take_over
from leyden_ddp.watch import GRACE, INTERVAL, exit_callbacks

if TYPE_CHECKING:
    from leyden_ddp.parallel import ParallelStrategy

T = TypeVar("T")
_PATIENCE = 2 * GRACE + 2 * INTERVAL  # seconds that the other processes have to end when one has failed
_AT_ONCE = 1.0  # seconds within which several signals are one
_UNGUARDED = 78  # exit code of a process that tried to start processes itself while it imported the script


class FunctionLauncher(Launcher):
    """Starts every process of this node by ``multiprocessing``, and brings back the results of rank 0.

    Args:
        strategy: The strategy whose processes are started, in the way of its ``start_method``.
    """

    takes_part = False

    def __init__(self, strategy: ParallelStrategy) -> None:
        self._strategy = strategy
        self._directory = ""

    def launch(self, function: Callable[..., T], *args: Any) -> T:
        """Run ``function`` in every process.

        Args:
            function: A method of a run or of a Fabric. A run then has the state of rank 0's, as if it had taken place
                in this process.
            args: Its arguments.

        Returns:
            What ``function`` returned on rank 0.

        Raises:
            MisconfigurationException: Something that the processes need can't be pickled, which the message names; or
                the script has no ``__main__`` guard.
            ProcessExitedException: A process was killed, or ended without an error.
            ProcessRaisedException: A process raised an error that can't be pickled. One that can is raised itself.
        """
        strategy = self._strategy
        assert strategy.environment is not None
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            sys.exit(_UNGUARDED)  # this process imports the script again; its parent says what is wrong
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
                with _forwarding_sigterm(context.processes):
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
        """Raise if a process has ended already; called in the others before they have met.

        Raises:
            MeetingError: A process has ended; the message names its rank.
        """
        for rank in range(self._strategy.num_processes):
            if os.path.exists(_ending_path(self._directory, rank)):
                raise MeetingError(f"The process of local rank {rank} ended before the run began.")

    def _wait(self, processes: list[Any]) -> None:
        """Wait for all processes; once one has failed, or the user has interrupted, only for a short time.

        Raises:
            KeyboardInterrupt: The user has interrupted.
        """
        patience, interruption = float("inf"), None
        try:
            while True:
                codes = [process.exitcode for process in processes]
                for rank, process in enumerate(processes):
                    if codes[rank] and not os.path.exists(_ending_path(self._directory, rank)):
                        _write_ending(self._directory, rank, None, _describe_exit(process))
                if any(codes):
                    patience = min(patience, time.monotonic() + _PATIENCE)
                if None not in codes or time.monotonic() > patience:
                    break
                running = [each.sentinel for each, code in zip(processes, codes, strict=True) if code is None]
                try:
                    wait(running, None if patience == float("inf") else INTERVAL)
                except KeyboardInterrupt as pressed:  # the processes get it too; a second one ends them
                    if patience < float("inf"):
                        raise
                    patience, interruption = time.monotonic() + _PATIENCE, pressed
        finally:
            for process in processes:
                process.kill()
                process.join()
        if interruption is not None:
            raise interruption


@dataclass
class Ending:
    """How a failed process ended.

    Args:
        error: The error that it raised; None if it was killed, or if the error can't be pickled.
        text: The traceback, or a sentence about how it ended.
        has_raised: Whether it raised an error.
        is_consequence: Whether it failed because another rank had failed.
    """

    error: BaseException | None
    text: str
    has_raised: bool
    is_consequence: bool


def _worker(local_rank: int, task: Any, port: int, directory: str) -> None:
    """Run in each process: take the rank's place, and call the method of a run or a Fabric that ``task`` holds."""
    os.environ["MASTER_PORT"] = str(port)
    strategy: ParallelStrategy | None = None
    exit_callbacks.append(lambda error: _write_ending(directory, local_rank, error, str(error)))
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
            _write_ending(directory, local_rank, error, text)
            raise
        _write_ending(directory, local_rank, (strategy.cause if strategy is not None else None) or error, text)
        sys.exit(1)  # the parent process raises the error
    finally:
        leave()


def _owner(function: Callable[..., Any]) -> Any:
    """The object whose method ``function`` is."""
    return function.__self__  # type: ignore[attr-defined]


def _ending_path(directory: str, rank: int) -> str:
    return os.path.join(directory, f"failed-{rank}")


def _write_ending(directory: str, rank: int, error: BaseException | None, text: str) -> None:
    """Write down for the parent process how a process ended; the file is whole, or it is not there."""
    ending = Ending(error, text, error is not None, isinstance(error, (PeerFailedError, MeetingError)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        ending.error = None
    path = _ending_path(directory, rank)
    with open(f"{path}~", "wb") as file:
        pickle.dump(ending, file)
    os.replace(f"{path}~", path)


def _describe_exit(process: Any) -> str:
    """Describe how a process ended that wrote nothing down; returns the end of a sentence."""
    code = process.exitcode
    if code >= 0:
        return f"ended with code {code} without an error message."
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
    """Raise the error that came first in any process, if there was one; it keeps its type."""
    endings: dict[int, Ending] = {}
    for local_rank in range(len(processes)):
        with suppress(FileNotFoundError), open(_ending_path(directory, local_rank), "rb") as file:
            endings[first_rank + local_rank] = pickle.load(file)  # written by our own child a moment ago
    if not endings:
        return
    rank = _first(endings)
    ending, process = endings[rank], processes[rank - first_rank]
    if process.exitcode == _UNGUARDED and not ending.has_raised:
        raise MisconfigurationException(
            "Each new process imports the script and came to this run again, so it needs a guard: put what the script "
            'does under `if __name__ == "__main__":`, or take strategy="ddp" or "ddp_fork".'
        )
    raised = multiprocessing.ProcessRaisedException(f"\n\nRank {rank} failed:\n{ending.text}", rank, process.pid)
    if ending.error is not None:
        says_all = isinstance(ending.error, (SystemExit, KeyboardInterrupt, PeerFailedError))
        raise ending.error from (None if says_all else raised)
    if ending.has_raised:
        raise raised
    seen = [e.text for e in endings.values() if isinstance(e.error, PeerFailedError) and e.error.rank == rank]
    raise multiprocessing.ProcessExitedException(
        "\n".join([f"The process of rank {rank} {ending.text}", *seen[:1]]), rank, process.pid, process.exitcode
    )


def _first(endings: dict[int, Ending]) -> int:
    """The rank that failed first, or whose error says most about the failure.

    It is the rank that another rank's error names. If the error of that one names a third rank, it has only seen
    consequences, and the rank that named it knows more. Where no error names a rank, it is one whose own error is no
    consequence of another.
    """
    for rank, ending in endings.items():
        if isinstance(ending.error, PeerFailedError) and ending.error.rank in endings:
            named = endings[ending.error.rank].error
            contradicts = isinstance(named, PeerFailedError) and named.rank != ending.error.rank
            return rank if contradicts else ending.error.rank
        if isinstance(ending.error, PeerFailedError) and ending.error.rank == ALL:
            return rank
    own = [rank for rank, ending in endings.items() if ending.has_raised and not ending.is_consequence]
    silent = [rank for rank, ending in endings.items() if not ending.has_raised]
    return next(iter([*own, *silent, *endings]))


@contextmanager
def _forwarding_sigterm(processes: list[Any]) -> Generator[None, None, None]:
    """A block that forwards SIGTERM to the processes, which agree on where to end; a later one kills them.

    Some programs, ``timeout`` for one, send it twice at once, to the process and to its group.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    asked_at: float | None = None

    def forward(number: int, frame: Any) -> None:
        nonlocal asked_at
        now = time.monotonic()
        asked_at = now if asked_at is None else asked_at
        for process in processes:
            process.kill() if now > asked_at + _AT_ONCE else process.terminate()

    previous = signal.signal(signal.SIGTERM, forward)
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
    """What the processes need, as bytes; pickled by ``multiprocessing``, tensors would share the model's memory."""
    try:
        return pickle.dumps((function, args))
    except Exception as error:
        path, reason = unpicklable((function, args)) or ("Something", str(error))
        raise MisconfigurationException(
            f"{path} can't be pickled, which {start_method!r} needs to bring it to the other processes: {reason}. "
            "Make it in configure_model or setup, or take strategy='ddp' or 'ddp_fork'."
        ) from error

"""For Leyden's own tests: starts processes with a launcher's environment variables, as a cluster does.

They are forked from the test's process, so they start at once, with everything imported.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

from leyden_testing.ranks import free_port

PATIENCE = 60.0
"""The time in seconds within which everything expected happens, even on a busy machine."""


class Forked:
    """A process in its own session that runs a function as if it were a script.

    Args:
        function: The function.
        output: The file for the process's output.
        outlives: Whether the process may live longer than this one.
        environment: Environment variables to set, or with None to remove.
    """

    def __init__(
        self, function: Callable[[], Any], output: Path, outlives: bool = False, **environment: str | None
    ) -> None:
        self.output = output
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            if not outlives:
                _prctl_pr_set_pdeathsig(signal.SIGKILL)
            code = 70  # the exit code if _run itself fails; the fork must end then, and not go on with the tests
            try:
                code = _run(function, output, environment)
            finally:
                os._exit(code)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for the process and return its exit code, which is negative after a signal.

        Args:
            seconds: After this time the process is killed.

        Raises:
            AssertionError: The process was killed.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        self.kill()
        raise AssertionError(f"process {self.pid} did not end within {seconds} s; its output:\n{self.said}")

    def kill(self) -> None:
        """Kill the process and those of its session."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    @property
    def said(self) -> str:
        """The process's output so far."""
        return self.output.read_text()


def _run(function: Callable[[], Any], output: Path, environment: dict[str, str | None]) -> int:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.excepthook = sys.__excepthook__
    atexit._clear()
    for name, value in environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    code = 0
    try:
        function()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        sys.last_value, code = error, 1  # like the interpreter
        sys.excepthook(type(error), error, error.__traceback__)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def by_hand(
    function: Callable[[], Any], directory: Path, ranks: Iterable[int] = (0, 1), size: int = 2, **more: str
) -> list[Forked]:
    """Start processes of one node, each with its own environment variables.

    Args:
        function: The function that each process runs.
        directory: The directory for their output.
        ranks: The ranks of the processes to start.
        size: The world size.
        more: Further environment variables.

    Returns:
        The processes in the order of ``ranks``.
    """
    directory.mkdir(exist_ok=True)
    common: dict[str, Any] = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(size),
        **more,
    }
    return [
        Forked(function, directory / f"said-{rank}", LOCAL_RANK=str(rank), RANK=str(rank), **common) for rank in ranks
    ]


def codes(processes: list[Forked], seconds: float = PATIENCE) -> list[int]:
    """Wait for processes and return their exit codes; kill what is left.

    Args:
        processes: The processes.
        seconds: How long to wait for each.

    Raises:
        AssertionError: A process did not end in that time.
    """
    try:
        return [process.wait(seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()


def wait_for(path: Path, seconds: float = PATIENCE) -> str:
    """Wait until a file exists and is not empty, and return its text.

    Args:
        path: The file's path.
        seconds: How long to wait.

    Raises:
        AssertionError: The file did not appear in that time.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(FileNotFoundError):
            if text := path.read_text():
                return text
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear within {seconds} s")


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


def wait_for_end(pid: int, seconds: float = PATIENCE) -> None:
    """Wait until a process has ended, which need not be a child of this one.

    Args:
        pid: The process's id.
        seconds: How long to wait.

    Raises:
        AssertionError: The process did not end in that time.
    """
    until = time.monotonic() + seconds
    while is_alive(pid):
        assert time.monotonic() < until, f"process {pid} did not end within {seconds} s"
        time.sleep(0.01)

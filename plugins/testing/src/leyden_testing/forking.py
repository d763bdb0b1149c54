"""For Leyden's own tests: processes forked from the test's with a launcher's variables, as a cluster starts them.

They are there at once: a fork has all that is imported.
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
"""Seconds in which all that has to happen happens, also on a busy machine."""


class Forked:
    """A process, in a session of its own, that runs a function as if it were its script.

    Args:
        function: What it runs.
        output: The file for what it prints.
        outlives: Whether it may outlive the process that starts it.
        environment: Variables for it; None takes one away.
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
            code = 70  # of a fault in what follows, from which no second copy of the tests may run on
            try:
                code = _run(function, output, environment)
            finally:
                os._exit(code)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code, negative for a signal.

        Args:
            seconds: After which it is killed.

        Raises:
            AssertionError: It ran for longer.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        self.kill()
        raise AssertionError(f"process {self.pid} did not end within {seconds} s; it said:\n{self.said}")

    def kill(self) -> None:
        """End it and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    @property
    def said(self) -> str:
        """What it has printed."""
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
        sys.last_value, code = error, 1  # as the interpreter does
        sys.excepthook(type(error), error, error.__traceback__)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def by_hand(
    function: Callable[[], Any], directory: Path, ranks: Iterable[int] = (0, 1), size: int = 2, **more: str
) -> list[Forked]:
    """Processes of one node, each started by hand.

    Args:
        function: What each runs.
        directory: Where what they print is kept.
        ranks: Of the processes to start.
        size: How many ranks there are.
        more: Further variables.
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
    """The exit codes of processes; none is left.

    Args:
        processes: To wait for.
        seconds: How long each may take.
    """
    try:
        return [process.wait(seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()


def wait_for(path: Path, seconds: float = PATIENCE) -> str:
    """What a file holds, once it is there and holds something.

    Args:
        path: The file.
        seconds: How long to wait for it.

    Raises:
        AssertionError: It did not come.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(FileNotFoundError):
            if text := path.read_text():
                return text
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear within {seconds} s")


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


def wait_for_end(pid: int, seconds: float = PATIENCE) -> None:
    """Wait until a process is gone that need not be a child of this one.

    Args:
        pid: Its id.
        seconds: How long to wait for it.

    Raises:
        AssertionError: It is still there.
    """
    until = time.monotonic() + seconds
    while is_alive(pid):
        assert time.monotonic() < until, f"process {pid} did not end within {seconds} s"
        time.sleep(0.01)

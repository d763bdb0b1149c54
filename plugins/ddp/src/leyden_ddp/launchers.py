"""Launchers: what starts the processes of one node if no cluster has started them."""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from leyden.strategies import Launcher
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_info
from leyden_ddp.functions import FunctionLauncher
from leyden_ddp.meeting import PARENT, MeetingError
from leyden_ddp.watch import GRACE

if TYPE_CHECKING:
    from leyden_ddp.parallel import ParallelStrategy

T = TypeVar("T")
_PATIENCE = 2 * GRACE  # seconds that the other processes have to end when this one has failed


def choose_launcher(strategy: ParallelStrategy) -> ScriptLauncher | FunctionLauncher | None:
    """The launcher that starts the other processes of this node; None if a cluster has started them."""
    assert strategy.environment is not None
    if strategy.environment.creates_processes_externally:
        return None
    if strategy.start_method == "popen":
        return ScriptLauncher(strategy)
    return FunctionLauncher(strategy)


class ScriptLauncher(Launcher):
    """Runs the script again for every other process of this node; the calling process has the node's rank 0.

    Args:
        strategy: The strategy whose processes are started.
    """

    def __init__(self, strategy: ParallelStrategy) -> None:
        self._strategy = strategy
        self._failed = False
        self.processes: list[subprocess.Popen[bytes]] = []

    def launch(self, function: Callable[..., T], *args: Any) -> T:
        """Start the other processes, once for the whole program, and run ``function`` in this one."""
        if "LOCAL_RANK" not in os.environ:
            self._start()
        self._failed = True
        result = function(*args)
        self._failed = False
        return result

    def _start(self) -> None:
        command = _command()
        strategy, environment = self._strategy, self._strategy.environment
        assert environment is not None
        address, port = environment.main_address, environment.main_port
        os.environ.update(
            MASTER_ADDR=address, MASTER_PORT=str(port), NODE_RANK=str(environment.node_rank()), LOCAL_RANK="0",
            WORLD_SIZE=str(environment.world_size()), RANK=str(environment.global_rank()),
        )  # fmt: skip
        atexit.register(self._end)
        for local_rank in range(1, strategy.num_processes):
            rank = strategy.node_rank * strategy.num_processes + local_rank
            own = {**os.environ, "LOCAL_RANK": str(local_rank), "RANK": str(rank), PARENT: str(os.getpid())}
            self.processes.append(subprocess.Popen(command, env=own))
        rank_zero_info(f"Started {len(self.processes)} more process(es) of {' '.join(command)!r}.")

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "processes": []}  # a copy neither checks nor ends those of this one

    def check(self) -> None:
        """Raise if one of the started processes has ended already.

        Raises:
            MeetingError: A process has ended; the message has its rank and exit code.
        """
        for local_rank, process in enumerate(self.processes, 1):
            if process.poll() is not None:
                raise MeetingError(
                    f"The process of local rank {local_rank} ended with code {process.returncode} before the run "
                    "began; its own message is above."
                )

    def _end(self) -> None:
        """Wait for the other processes when this program ends; after a failure, kill those that don't end."""
        failed = self._failed or hasattr(sys, "last_value")  # an error of the script outside of a run
        try:
            self._wait(time.monotonic() + _PATIENCE if failed else float("inf"))
        finally:
            for process in self.processes:
                process.kill()
                process.wait()
        ended = {rank: process.returncode for rank, process in enumerate(self.processes, 1) if process.returncode}
        if ended and not failed:
            local_rank, code = next(iter(ended.items()))
            print(f"The process of local rank {local_rank} ended with code {code}.", file=sys.stderr)
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)  # an exit function can't set the exit code in any other way

    def _wait(self, until: float) -> None:
        for process in self.processes:
            patience = until - time.monotonic()
            with suppress(subprocess.TimeoutExpired):
                process.wait(None if patience == float("inf") else max(patience, 0))


def _command() -> list[str]:
    """The command that runs this program again.

    Raises:
        MisconfigurationException: The program is no script; it runs in a notebook, for example.
    """
    python = [sys.executable, *subprocess._args_from_interpreter_flags()]  # type: ignore[attr-defined]  # undocumented
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None and spec.name != "__main__":
        return [*python, "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]]
    path = os.path.dirname(file) if file and spec is not None else file  # a directory or an archive, or a script
    if not path or not os.path.exists(path):
        raise MisconfigurationException(
            "This program is no script that can be run again for the other processes; in a notebook or an "
            "interactive session write strategy='ddp_notebook'."
        )
    return [*python, path, *sys.argv[1:]]

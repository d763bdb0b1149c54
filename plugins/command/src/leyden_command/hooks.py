"""``leyden hooks``: run a script for a few batches and print what its hooks call, in what order and at what cost."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections import defaultdict
from time import perf_counter
from typing import Any

from leyden import hookimpl
from leyden.plugins import PluginInfo, discover
from leyden.profilers import Profiler
from leyden.utilities.exceptions import MisconfigurationException
from leyden_command.choice import add_plugin_option
from leyden_command.describe import describe_hooks
from leyden_command.printing import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_plugin_option(parser)
    parser.add_argument("--batches", type=int, default=20, help="training batches to measure (default: 20)")
    parser.add_argument("script", help="a Python script that calls a Trainer")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own arguments")


def run(options: argparse.Namespace) -> int:
    """Run the script until its Trainer's first run ends; return 1 if the script ends without a run.

    Raises:
        MisconfigurationException: There is no such script.
        SystemExit: The run has ended and its hooks were printed.
    """
    script = options.script
    if not os.path.isfile(script):
        raise MisconfigurationException(f"there is no script {script!r}.")
    discover().admit(PluginInfo("leyden-hooks", plugin=_Observer(options.batches)))
    sys.argv = [script, *options.arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))  # as Python does for a script
    runpy.run_path(script, run_name="__main__")
    print(f"{script} ended without a run of a Trainer.", file=sys.stderr)
    return 1


class _Observer:
    """A plugin that gives every Trainer a timer. It has no hooks of a run, so the printed list does not show it."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    @hookimpl
    def leyden_configure(self, trainer: Any) -> None:
        """Measure this Trainer's hooks."""
        trainer.profiler = _HookTimer(trainer, self.batches)


class _HookTimer(Profiler):
    """Measures how long each action takes, and ends the script after its first run.

    Args:
        trainer: The Trainer to measure.
        batches: The number of training batches after which the run stops; it ends as with ``trainer.should_stop``.
    """

    def __init__(self, trainer: Any, batches: int) -> None:
        super().__init__()
        self.trainer, self.batches = trainer, batches
        self.recorded_durations: dict[str, list[float]] = defaultdict(list)
        self._began: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        self._began[action_name] = perf_counter()

    def stop(self, action_name: str) -> None:
        self.recorded_durations[action_name].append(perf_counter() - self._began.pop(action_name))
        trainer = self.trainer
        if action_name.endswith(".leyden_optimize_batch") and trainer.progress.total_batches >= self.batches:
            trainer.should_stop, trainer.min_epochs, trainer.min_steps = True, None, None

    def describe(self) -> None:
        if self.trainer.is_global_zero:
            show(describe_hooks(self.trainer))

    def teardown(self, stage: str | None = None) -> None:
        raise SystemExit(0)

"""The command ``leyden``: what is installed (``leyden plugins``), and what a script's run calls (``leyden hooks``).

``leyden plugins [--json]`` lists every plugin: distribution, version, components, hooks, load time, state.
``leyden hooks SCRIPT [ARGS...]`` runs a script for a few batches and prints, for each hook, what is called,
in what order, from which plugin, and what a call costs.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from collections import defaultdict
from time import perf_counter
from typing import Any

from leyden.hooks import hookimpl
from leyden.interfaces.profiler import Profiler
from leyden.manager import PluginRecord, discover


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="leyden", description="Look at what Leyden has found and what it would do.")
    commands = parser.add_subparsers(dest="command", required=True)
    plugins = commands.add_parser("plugins", help="list the plugins that are installed")
    plugins.add_argument("--json", action="store_true", help="print JSON for programs")
    hooks = commands.add_parser("hooks", help="run a script for a few batches and print what its hooks call")
    hooks.add_argument("--batches", type=int, default=20, help="training batches to measure (default: 20)")
    hooks.add_argument("script", help="a Python script that calls a Trainer")
    hooks.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own arguments")
    options = parser.parse_args(arguments)
    if options.command == "plugins":
        print(_json() if options.json else _table())
        return 0
    return _hooks(options.script, options.arguments, options.batches)


def _row(record: PluginRecord) -> dict[str, Any]:
    components = [f"{part.kind}:{part.name}" for part in record.components]
    return {
        "plugin": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "state": record.state,
        "components": components,
        "hooks": record.hook_names,
        "load_ms": round(record.load_time * 1e3, 2),
        "error": f"{type(record.error).__name__}: {record.error}" if record.error is not None else None,
    }


def _json() -> str:
    return json.dumps([_row(record) for record in discover().records], indent=2)


def _table() -> str:
    """One block for each plugin: a line of facts, and what it brings."""
    blocks = []
    for row in map(_row, discover().records):
        head = f"{row['plugin']:<14} {row['distribution']} {row['version']}".ljust(44)
        lines = [f"{head} {row['state']:<10} {row['load_ms']:8.2f} ms"]
        by_kind: dict[str, list[str]] = defaultdict(list)
        for component in row["components"]:
            kind, _, name = component.partition(":")
            by_kind[kind].append(name)
        lines += [f"    {kind}: {', '.join(names)}" for kind, names in by_kind.items()]
        if own := [name for name in row["hooks"] if name != "leyden_components"]:
            lines.append(f"    hooks: {', '.join(own)}")
        if row["error"]:
            lines.append(f"    {row['error']}")
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


class _HookTimer(Profiler):
    """Keeps how long each measured action took."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded_durations: dict[str, list[float]] = defaultdict(list)
        self._began: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        self._began[action_name] = perf_counter()

    def stop(self, action_name: str) -> None:
        self.recorded_durations[action_name].append(perf_counter() - self._began.pop(action_name))


class _Observer:
    """A plugin that measures the first run of a script, stops it, and prints its plan."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    @hookimpl
    def leyden_configure(self, trainer: Any) -> None:
        """Measure this Trainer's hooks."""
        trainer.profiler = _HookTimer()

    @hookimpl(trylast=True)
    def on_train_batch_end(self, trainer: Any) -> None:
        """Stop after enough batches, at an epoch's end like any other stop."""
        if trainer.progress.total_batches >= self.batches:
            trainer.should_stop, trainer.min_epochs, trainer.min_steps = True, None, None

    @hookimpl(trylast=True)
    def teardown(self, trainer: Any) -> None:
        """Print what was called and end the script."""
        print(trainer.describe_hooks())
        raise SystemExit(0)


def _hooks(script: str, arguments: list[str], batches: int) -> int:
    if not os.path.isfile(script):
        print(f"leyden hooks: there is no script {script!r}.", file=sys.stderr)
        return 2
    discover().admit(PluginRecord("leyden-hooks", plugin=_Observer(batches)))
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))  # as Python does for a script
    runpy.run_path(script, run_name="__main__")
    print(f"{script} ended without a run of a Trainer.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

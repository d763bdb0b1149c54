"""``leyden doctor``: list installed distributions, devices and problems, with a command that fixes each problem."""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from collections import defaultdict
from dataclasses import asdict
from typing import Any

import torch

from leyden.plugins import HOOKS_VERSION, REGISTRATION, PluginManager, discover
from leyden_command import checks
from leyden_command.choice import add_plugin_option
from leyden_command.describe import order_mark
from leyden_command.printing import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_plugin_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(options: argparse.Namespace) -> int:
    """Print the report; return 0 if there is no problem, else 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the report lists broken plugins itself, with a fix
        report = examine(discover())
    show(json.dumps(report, indent=2) if options.json else _text(report))
    return 1 if report["problems"] else 0


def examine(manager: PluginManager) -> dict[str, Any]:
    """Return the whole report as plain data."""
    return {
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "hooks": HOOKS_VERSION},
        "distributions": checks.installed_distributions(manager),
        "devices": [asdict(device) for device in checks.devices(manager)],
        "order": _orders(manager),
        "problems": [asdict(problem) for problem in checks.problems(manager)],
    }


def _orders(manager: PluginManager) -> dict[str, list[str]]:
    """Return, for each registration hook of several plugins, the plugins in calling order."""
    orders = {}
    for name in REGISTRATION:
        implementations = getattr(manager.hook, name).get_hookimpls()
        if len(implementations) > 1 and name != "leyden_components":
            orders[name] = [f"{impl.plugin_name}{order_mark(impl)}" for impl in reversed(implementations)]
    return orders


def _text(report: dict[str, Any]) -> str:
    lines = [", ".join(f"{name} {version}" for name, version in report["versions"].items())]
    by_version: dict[str, list[str]] = defaultdict(list)
    for name, version in report["distributions"].items():
        by_version[version].append(name)
    lines += [f"{version}: {', '.join(names)}" for version, names in by_version.items()]
    lines += ["", "Devices:", *(_device(device) for device in report["devices"])]
    if report["order"]:
        lines += ["", "Order of the hooks that several plugins implement:"]
        lines += [f"  {hook}: {', '.join(names)}" for hook, names in report["order"].items()]
    lines += ["", f"Problems ({len(report['problems'])}):" if report["problems"] else "No problems were found."]
    for problem in report["problems"]:
        lines += [f"  {problem['description'].rstrip('.')}.", f"    {problem['fix']}"]
    return "\n".join(lines)


def _device(device: dict[str, Any]) -> str:
    if device["error"]:
        return f"  {device['name']}: {device['error']}"
    count = device["count"]
    precisions = f": {', '.join(device['precisions'])}" if count else ""
    return f"  {device['name']}: {count or 'no'} device{'' if count == 1 else 's'}{precisions}"

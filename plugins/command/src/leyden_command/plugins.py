"""``leyden plugins``: list the installed plugins, what each provides, and name clashes."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from typing import Any

from leyden.plugins import PluginInfo, PluginManager, discover
from leyden_command.choice import add_plugin_option
from leyden_command.clashes import clashing_names
from leyden_command.describe import order_mark
from leyden_command.printing import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_plugin_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(options: argparse.Namespace) -> int:
    """Print the list; return 0 always, since ``leyden doctor`` is the command that reports problems."""
    manager = discover()
    rows = [_row(info, manager) for info in manager.infos]
    show(json.dumps(rows, indent=2) if options.json else "\n".join(map(_block, rows)))
    return 0


def _row(info: PluginInfo, manager: PluginManager) -> dict[str, Any]:
    hooks = sorted(caller.name for caller in manager.get_hookcallers(info.plugin) or ())
    clashes = [
        f"{kind}:{name} with {', '.join(str(owner) for owner in owners if owner is not info) or 'itself'}"
        for kind, name, owners in clashing_names(manager)
        if any(owner is info for owner in owners)
    ]
    return {
        "plugin": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "state": info.state,
        "components": [f"{part.kind}:{part.name}" for part in info.components],
        "clashes": clashes,
        "hooks": hooks,
        "order": {hook: mark for hook in hooks if (mark := _mark(info, manager, hook))},
        "load_ms": round(info.load_time * 1e3, 2),
        "error": f"{type(info.error).__name__}: {info.error}" if info.error is not None else None,
    }


def _mark(info: PluginInfo, manager: PluginManager, hook: str) -> str:
    implementations = getattr(manager.hook, hook).get_hookimpls()
    return next(order_mark(impl).strip(" ()") for impl in implementations if impl.plugin is info.plugin)


def _block(row: dict[str, Any]) -> str:
    """Return one plugin's lines: name, version, state and load time, then what it provides."""
    head = f"{row['plugin']:<14} {row['distribution']} {row['version']}".ljust(44)
    lines = [f"{head} {row['state']:<10} {row['load_ms']:8.2f} ms"]
    by_kind: dict[str, list[str]] = defaultdict(list)
    for component in row["components"]:
        kind, _, name = component.partition(":")
        by_kind[kind].append(name)
    lines += [f"    {kind}: {', '.join(names)}" for kind, names in by_kind.items()]
    hooks = [f"{name} ({row['order'][name]})" if name in row["order"] else name for name in row["hooks"]]
    if own := [name for name in hooks if name != "leyden_components"]:
        lines.append(f"    hooks: {', '.join(own)}")
    lines += [f"    clash: {clash}" for clash in row["clashes"]]
    if row["error"]:
        lines.append(f"    {row['error']}")
    return "\n".join(lines)

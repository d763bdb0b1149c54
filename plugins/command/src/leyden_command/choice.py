"""The option ``-p``, which loads a plugin or leaves one out, as pytest's ``-p`` does."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from importlib_metadata import entry_points

from leyden.plugins import names_in

WANTED, DISABLED = "LEYDEN_PLUGINS", "LEYDEN_PLUGINS_DISABLED"


class _Choose(argparse.Action):
    """Sets the environment variable that makes this process and its child processes load or leave out a plugin."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        variable = DISABLED if str(values).startswith("no:") else WANTED
        name = str(values).removeprefix("no:")
        if variable == DISABLED and name not in (known := _installed()):
            parser.error(f"-p no:{name}: there is no plugin {name!r}; installed: {', '.join(sorted(known))}")
        os.environ[variable] = ",".join([*names_in(variable), name])
        namespace.wanted = [*getattr(namespace, "wanted", ()), *([name] if variable == WANTED else ())]


def _installed() -> set[str]:
    """What a plugin is left out by: the names of entry points and of their distributions."""
    points = entry_points(group="leyden")
    return {name for point in points for name in (point.name, *([point.dist.name] if point.dist is not None else ()))}


def as_asked(error: Exception, options: argparse.Namespace) -> str:
    """What an error says, of ``-p`` where it speaks of the environment variable that stands for it.

    Args:
        error: The error of a command.
        options: The command's options.
    """
    said, wanted = str(error), getattr(options, "wanted", ())
    return said.replace(WANTED, "-p", 1) if any(f"{WANTED} asks for {name!r}" in said for name in wanted) else said


def add_plugin_option(parser: argparse.ArgumentParser) -> None:
    """Add the option ``-p`` to a command."""
    parser.add_argument(
        "-p",
        action=_Choose,
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="load a plugin that is not loaded automatically, given by its entry point or its module; "
        "no:NAME leaves a plugin out (may be repeated)",
    )

"""The option ``-p``: which plugins a command has, as pytest's ``-p`` does it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from leyden.plugins import names_in


class _Choose(argparse.Action):
    """Has discovery, in this process and in those that it starts, load a plugin or leave it out."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        name = str(values)
        variable = "LEYDEN_PLUGINS_DISABLED" if name.startswith("no:") else "LEYDEN_PLUGINS"
        os.environ[variable] = ",".join([*names_in(variable), name.removeprefix("no:")])


def add_plugin_option(parser: argparse.ArgumentParser) -> None:
    """Give a command the option ``-p``."""
    parser.add_argument(
        "-p",
        action=_Choose,
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="load a plugin that is not loaded by itself, by the name of its entry point or its module; "
        "no:NAME leaves one out (may be repeated)",
    )

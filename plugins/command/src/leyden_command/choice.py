"""The option ``-p``, which loads a plugin or leaves one out, as pytest's ``-p`` does."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from leyden.plugins import names_in


class _Choose(argparse.Action):
    """Sets the environment variable that makes this process and its child processes load or leave out a plugin."""

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
    """Add the option ``-p`` to a command."""
    parser.add_argument(
        "-p",
        action=_Choose,
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="load a plugin that is not loaded automatically, given by its entry point or its module; "
        "no:NAME leaves a plugin out (may be repeated)",
    )

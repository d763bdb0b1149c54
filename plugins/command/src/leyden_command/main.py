"""The command ``leyden``: its words are those of its parts, one file for each."""

from __future__ import annotations

import argparse
import sys

from leyden.utilities.exceptions import MisconfigurationException
from leyden_command import doctor, hooks, new, plugins

COMMANDS = (plugins, hooks, doctor, new)


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command's words; by default those with which the process was started.

    Returns:
        The exit status: 0 when all is well, 1 when not, 2 when the command was not understood.
    """
    parser = argparse.ArgumentParser(prog="leyden", description="Look at what Leyden has found and what it would do.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        summary = (command.__doc__ or "").partition("\n")[0].partition(": ")[2]
        own = commands.add_parser(name, help=summary, description=summary)
        own.set_defaults(run=command.run)
        command.add_arguments(own)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except MisconfigurationException as error:
        print(f"leyden {options.command}: {error}", file=sys.stderr)
        return 2

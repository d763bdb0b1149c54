"""The command ``leyden`` with its subcommands, each in a file of its own."""

from __future__ import annotations

import argparse
import sys

from leyden.utilities.exceptions import MisconfigurationException
from leyden_command import doctor, hooks, new, plugins
from leyden_command.choice import as_asked

COMMANDS = (plugins, hooks, doctor, new)


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        arguments: The command line's words; by default those of this process.

    Returns:
        The exit status: 0 on success, 1 if there are problems, 2 if the command line is wrong.
    """
    parser = argparse.ArgumentParser(prog="leyden", description="Inspect an installation of Leyden; start a plugin.")
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
        print(f"leyden {options.command}: {as_asked(error, options)}", file=sys.stderr)
        return 2

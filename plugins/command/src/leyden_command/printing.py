"""Printing what a command has to say, to somebody who need not read it to its end."""

from __future__ import annotations

import os
import sys


def show(text: str) -> None:
    """Print; where the reader has gone, as ``head`` does when it has its lines, the rest goes nowhere.

    Args:
        text: One line or several.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes once more when it ends, and would complain of the same again.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)

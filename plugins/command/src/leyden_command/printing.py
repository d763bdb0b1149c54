"""Prints a command's output to a reader that may stop reading early, such as ``head``."""

from __future__ import annotations

import os
import sys


def show(text: str) -> None:
    """Print; discard the rest if the reader has closed the pipe, as ``head`` does.

    Args:
        text: One line or several.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes once more when it exits, and would raise the same error again.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)

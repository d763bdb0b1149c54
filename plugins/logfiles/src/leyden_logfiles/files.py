"""Files that are replaced whole or not at all; local or behind a URL that fsspec understands."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO

from leyden.utilities.storage import file_system, is_remote, open_text


@contextmanager
def replacing(path: str) -> Generator[IO[str], None, None]:
    """A text file to write, which takes the place of ``path`` when the block has ended well.

    On a local disk the old file or the whole new one is there at every moment.
    """
    beside = f"{path}.new"
    with open_text(beside, "w") as file:
        yield file
        _sync(file)
    _move(beside, path)


def is_file(path: str) -> bool:
    """Whether there is a file at ``path``."""
    if not is_remote(path):
        return os.path.isfile(path)
    filesystem, name = file_system(path)
    return bool(filesystem.isfile(name))


def _sync(file: IO[str]) -> None:
    """Bring what was written to a local ``file`` to the disk itself; a remote one has its own guarantees."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except (OSError, AttributeError):  # no file of the operating system's
        return


def _move(source: str, target: str) -> None:
    if is_remote(target):
        filesystem, name = file_system(target)
        filesystem.mv(file_system(source)[1], name)
    else:
        os.replace(source, target)

"""Opens and finds files, local or behind a URL that fsspec understands."""

from __future__ import annotations

import os
from typing import IO

from leyden.utilities.storage import file_system, is_remote, local_path


def open_text(path: str, mode: str) -> IO[str]:
    """Open a text file in UTF-8 without changing line ends; when writing, make its directory if needed."""
    if is_remote(path):
        filesystem, name = file_system(path)
        if mode != "r":
            filesystem.makedirs(os.path.dirname(name), exist_ok=True)
        remote: IO[str] = filesystem.open(name, mode, encoding="utf-8", newline="")
        return remote
    file = local_path(path)
    if mode != "r":
        file.parent.mkdir(parents=True, exist_ok=True)
    return file.open(mode, encoding="utf-8", newline="")


def is_file(path: str) -> bool:
    """Whether there is a file at ``path``."""
    if not is_remote(path):
        return local_path(path).is_file()
    filesystem, name = file_system(path)
    return bool(filesystem.isfile(name))

"""Files and directories, local or behind a URL that fsspec understands; fsspec is imported for URLs only."""

from __future__ import annotations

import os
from typing import IO, Any


def open_text(path: str, mode: str) -> IO[str]:
    """Open a text file in UTF-8, line ends as they are; a directory for a file that is written is made."""
    if is_remote(path):
        filesystem, name = file_system(path)
        if mode != "r":
            filesystem.makedirs(os.path.dirname(name), exist_ok=True)
        remote: IO[str] = filesystem.open(name, mode, encoding="utf-8", newline="")
        return remote
    if mode != "r":
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    return open(path, mode, encoding="utf-8", newline="")


def directories(path: str) -> list[str]:
    """The names of the directories in ``path``; none where there is no such directory."""
    return _entries(path, "directory")


def file_names(path: str) -> list[str]:
    """The names of the files in the directory ``path``; none where there is no such directory."""
    return _entries(path, "file")


def _entries(path: str, kind: str) -> list[str]:
    if not is_remote(path):
        wanted = (
            [e.name for e in os.scandir(path) if e.is_dir() == (kind == "directory")] if os.path.isdir(path) else []
        )
        return wanted
    filesystem, name = file_system(path)
    if not filesystem.isdir(name):
        return []
    entries = filesystem.ls(name, detail=True, refresh=True)
    return [os.path.basename(entry["name"].rstrip("/")) for entry in entries if entry["type"] == kind]


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL of another file system than the local one."""
    return "://" in str(path) and not str(path).startswith("file://")


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    filesystem, path = url_to_fs(url)
    return filesystem, path

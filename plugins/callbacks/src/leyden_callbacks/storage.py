"""Checkpoint directories, local or behind an fsspec URL, and links to local checkpoints."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from leyden.utilities.storage import file_system, is_remote, name_beside


def normalised(path: str | os.PathLike[str]) -> str:
    """Return an absolute local path with links and ``~`` resolved; a remote URL is returned unchanged."""
    text = os.fspath(path)
    return text if is_remote(text) else os.path.realpath(os.path.expanduser(text.removeprefix("file://")))


def exists(path: str) -> bool:
    """Whether ``path`` is a file or a directory."""
    if not is_remote(path):
        return os.path.exists(path)
    filesystem, name = file_system(path)
    return bool(filesystem.exists(name))


def is_file(path: str) -> bool:
    """Whether ``path`` is a file or a local link."""
    if not is_remote(path):
        return os.path.isfile(path) or os.path.islink(path)
    filesystem, name = file_system(path)
    return bool(filesystem.isfile(name))


def is_directory(path: str) -> bool:
    """Whether ``path`` is a local directory and no link to one."""
    return os.path.isdir(path) and not os.path.islink(path)


def place(path: str) -> str:
    """Return what all spellings of a path have in common: the path in its file system, with links resolved."""
    _, is_url, inner = path.rpartition("://")
    return os.path.realpath("/" + inner.lstrip("/") if is_url else path) if path else ""


def is_within(path: str, directory: str) -> bool:
    """Whether ``path`` is ``directory`` or lies in it, when links are resolved."""
    return os.path.join(place(path), "").startswith(os.path.join(place(directory), ""))


def newest(paths: Iterable[str]) -> str:
    """Return the path that was written last; of several at one time the first."""
    return max(paths, key=_modified_at)


def _modified_at(path: str) -> float:
    """When a file or directory was written, in nanoseconds; 0 where the file system does not say."""
    if not is_remote(path):
        return os.stat(path).st_mtime_ns
    filesystem, name = file_system(path)
    with suppress(NotImplementedError, KeyError):
        return float(filesystem.modified(name).timestamp() * 1e9)
    return 0.0


def listing(directory: str) -> list[str]:
    """Return the full paths of a directory's entries; an empty list if the directory does not exist."""
    if not is_remote(directory):
        return [entry.path for entry in os.scandir(directory)] if os.path.isdir(directory) else []
    filesystem, name = file_system(directory)
    if not filesystem.isdir(name):
        return []
    return [filesystem.unstrip_protocol(entry) for entry in filesystem.ls(name, detail=False, refresh=True)]


def remove_if_empty(directory: str, within: str) -> None:
    """Remove a local directory that is empty, and those above it that then are, but not ``within``, their root."""
    while not is_remote(directory) and os.path.normpath(directory).startswith(os.path.join(within, "")):
        try:
            os.rmdir(directory)
        except OSError:  # it is not empty
            return
        directory = os.path.dirname(directory)


def link(target: str, path: str) -> None:
    """Make ``path`` a symbolic link to ``target``, or a copy of it where links are not allowed.

    An existing file or link is replaced. The link is made under another name and renamed, so that an existing file or
    link is never missing in between.
    """
    if os.path.abspath(target) == os.path.abspath(path):
        return
    beside = name_beside(Path(path))
    try:
        beside.symlink_to(os.path.relpath(target, os.path.dirname(path)))
    except OSError:  # Windows lets only privileged users make symbolic links
        copy = shutil.copytree if os.path.isdir(target) else shutil.copyfile
        copy(target, beside)
    os.replace(beside, path)

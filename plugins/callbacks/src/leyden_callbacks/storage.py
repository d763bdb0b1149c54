"""Checkpoint directories and links to checkpoints, on the local disk or (but for links) behind an fsspec URL."""

from __future__ import annotations

import os
import shutil

from leyden.utilities.storage import file_system, is_remote


def normalised(path: str | os.PathLike[str]) -> str:
    """An absolute local path without links and ``~``; a remote URL as it is."""
    text = os.fspath(path)
    return text if is_remote(text) else os.path.realpath(os.path.expanduser(text.removeprefix("file://")))


def exists(path: str) -> bool:
    """Whether there is a file or a directory."""
    if not is_remote(path):
        return os.path.exists(path)
    filesystem, name = file_system(path)
    return bool(filesystem.exists(name))


def listing(directory: str) -> list[str]:
    """The full paths of what is in a directory; nothing where there is no such directory."""
    if not is_remote(directory):
        return [entry.path for entry in os.scandir(directory)] if os.path.isdir(directory) else []
    filesystem, name = file_system(directory)
    if not filesystem.isdir(name):
        return []
    return [filesystem.unstrip_protocol(entry) for entry in filesystem.ls(name, detail=False, refresh=True)]


def link(target: str, path: str) -> None:
    """Make ``path`` a symbolic link to ``target``, replacing what is there; a copy where links are not allowed.

    The link is made beside and renamed, so that ``path`` is never missing in between.
    """
    if os.path.abspath(target) == os.path.abspath(path):
        return
    beside = f"{path}.new"
    _discard(beside)
    try:
        os.symlink(os.path.relpath(target, os.path.dirname(path)), beside)
    except OSError:  # Windows lets only privileged users make symbolic links
        copy = shutil.copytree if os.path.isdir(target) else shutil.copyfile
        copy(target, beside)
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)  # a rename can't replace a directory that has content
    os.replace(beside, path)


def _discard(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)

"""Checkpoint directories, local or behind an fsspec URL, and links to local checkpoints."""

from __future__ import annotations

import os
import shutil

from leyden.utilities.storage import file_system, is_remote


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

    An existing ``path`` is replaced. The link is made under another name and renamed, so that an existing file or
    link is never missing in between.
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

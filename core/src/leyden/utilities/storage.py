"""Files and directories, local or behind a URL that fsspec understands; fsspec is imported for URLs only."""

import errno
import io
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal


@contextmanager
def replacing(path: str | os.PathLike[str], mode: str, storage_options: Any = None) -> Generator[IO[Any], None, None]:
    """A file to write that takes the place of the one at ``path`` when it is whole.

    On a local disk there is the old one or the new one at every moment, whatever happens to the process or the power.
    Text is in UTF-8, line ends as they are; a directory for the file is made.

    Args:
        path: A local path or a URL.
        mode: "w" or "wb".
        storage_options: Arguments of the file system of a URL.
    """
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    if is_remote(path):
        import fsspec

        whole = io.StringIO(newline="") if text else io.BytesIO()
        yield whole
        with fsspec.open(str(path), mode, **text, **(storage_options or {})) as remote:
            remote.write(whole.getvalue())
        return
    target = local_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.part")  # always the same, so that kills leave one at most
    try:
        with beside.open(mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    flush_directory(target.parent)


def flush_directory(path: Path) -> None:
    """Make renames in a local directory durable, where the system lets a directory be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have nothing to flush there
            raise
    finally:
        os.close(descriptor)


def entries(path: str, kind: Literal["file", "directory"]) -> list[str]:
    """The names of the files, or of the directories, in a directory; none where there is no such directory."""
    if not is_remote(path):
        directory = local_path(path)
        found = os.scandir(directory) if directory.is_dir() else ()
        return [entry.name for entry in found if entry.is_dir() == (kind == "directory")]
    filesystem, name = file_system(path)
    if not filesystem.isdir(name):
        return []
    listed = filesystem.ls(name, detail=True, refresh=True)
    return [os.path.basename(entry["name"].rstrip("/")) for entry in listed if entry["type"] == kind]


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL of another file system than the local one."""
    return "://" in str(path) and not str(path).startswith("file://")


def local_path(path: str | os.PathLike[str]) -> Path:
    """A local path, without ``file://``."""
    return Path(str(path).removeprefix("file://"))


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    filesystem, path = url_to_fs(url)
    return filesystem, path

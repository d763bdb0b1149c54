"""Files and directories, local or behind a URL that fsspec understands; only URLs need fsspec."""

import errno
import io
import os
import platform
import threading
from collections.abc import Generator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import IO, Any, Literal


@contextmanager
def replacing(path: str | os.PathLike[str], mode: str, storage_options: Any = None) -> Generator[IO[Any], None, None]:
    """Open a file for writing that replaces the one at ``path`` when the block ends without an error.

    On a local disk either the old or one whole new file exists at any time, even if the process is killed, the power
    fails, or others write to the same path. Text is written in UTF-8 without changing line ends. The file's directory
    is made if needed.

    Args:
        path: A local path or a URL.
        mode: "w" or "wb".
        storage_options: Arguments for the URL's file system.
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
    temporary = name_beside(target)
    try:
        with temporary.open(mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_directory(target.parent)


def name_beside(target: Path) -> Path:
    """Return a name in the directory of ``target``, this thread's alone, for a file or link that it will rename.

    A thread has one name in a directory, so it writes one file there at a time. What processes of this machine that
    have ended have left there under such names is removed.
    """
    machine = f"@{platform.node()}.part"
    for left in target.parent.glob(f".leyden-*-*{escape(machine)}") if os.name == "posix" else ():
        try:
            os.kill(int(left.name.split("-")[1]), 0)
        except ProcessLookupError:
            left.unlink(missing_ok=True)
        except (OSError, ValueError, OverflowError):
            continue  # the process is another user's, or this is no such name
    own = target.with_name(f".leyden-{os.getpid()}-{threading.get_native_id()}{machine}")
    own.unlink(missing_ok=True)  # in a container that is started again, the process before had the same number
    return own


def flush_directory(path: Path) -> None:
    """Make renames in a local directory durable; does nothing on systems other than POSIX."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems can't flush directories
            raise
    finally:
        os.close(descriptor)


def entries(path: str, kind: Literal["file", "directory"]) -> list[str]:
    """Return the names of the files or of the directories in a directory; an empty list if it does not exist."""
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
    """Whether a path is a URL other than ``file://``."""
    return "://" in str(path) and not str(path).startswith("file://")


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return a local path, without ``file://``."""
    return Path(str(path).removeprefix("file://"))


def file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in that file system."""
    from fsspec.core import url_to_fs

    filesystem, path = url_to_fs(url)
    return filesystem, path

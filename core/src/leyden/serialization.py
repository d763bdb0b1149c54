"""Checkpoint files: plain data and tensors only, written so that no kill tears them, checked when they are read."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from enum import Enum
from operator import methodcaller
from pathlib import PurePath
from typing import IO, Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.serialization import get_safe_globals

from leyden.interfaces.checkpoint_io import CheckpointIO
from leyden.utilities.exceptions import CheckpointCorruptedError
from leyden.utilities.storage import file_system, is_remote, local_path, replacing

_PLAIN = {type(None), bool, float, complex, str, torch.dtype, torch.device, torch.Size, Tensor, Parameter}
# what makes the plain value of one of these or of a subclass, whatever the subclass says of itself;
# empty bytes are pickled as a call of ``bytes``, which is refused when loading, empty byte arrays are not
_PLAIN_BASES: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda value: bytes(value) or bytearray(),
}
# what makes the same of one of these in simpler types
_SIMPLER: dict[type, Callable[[Any], Any]] = {
    PurePath: str,
    date: methodcaller("isoformat"),
    time: methodcaller("isoformat"),
    timedelta: timedelta.total_seconds,
    bytearray: bytes,
    Namespace: vars,
}
_MOST_BITS = 8 * 255 - 1  # of an integer that weights_only can read, beside its sign


class NotPlainError(TypeError):
    """A value is no data: loading it back would run code or import a name from the file."""


def to_plain(value: Any, where: str = "", dropped: list[str] | None = None, within: tuple[int, ...] = ()) -> Any:
    """The value as data that ``torch.load(weights_only=True)`` takes back.

    Numpy values become numbers and tensors, paths strings, enums their values, dates text, named tuples tuples,
    dataclasses and Namespaces dicts.

    Args:
        value: Anything.
        where: The key path of ``value``, for messages.
        dropped: Collects the paths of dict entries that are no data and were left out.
        within: The ``id`` of every collection that ``value`` is in.

    Raises:
        NotPlainError: The value is no data and stands in no dict from which it could be left out.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Enum):
        return to_plain(value.value, where, dropped, within)
    if isinstance(value, tuple(_PLAIN_BASES)):
        return _plain_subclass(value, where)
    if isinstance(value, Tensor):
        return value if type(value) in get_safe_globals() else value.as_subclass(Tensor)
    if id(value) in within:
        raise NotPlainError(f"{where} is a collection that contains itself.")
    within = (*within, id(value))
    if isinstance(value, Mapping):
        return _plain_mapping(value, where, dropped, within)
    if isinstance(value, (list, tuple, deque, range)):
        items = [to_plain(v, f"{where}[{i}]", dropped, within) for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, (set, frozenset)):
        return {to_plain(v, where, dropped, within) for v in value}
    return to_plain(_simpler(value, where), where, dropped, within)


def _plain_subclass(value: Any, where: str) -> Any:
    """An integer, or what derives from a number or text, such as numpy.float64."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise NotPlainError(f"{where} is an integer of {value.bit_length()} bits, and {_MOST_BITS} can be read back.")
    return next(plain(value) for base, plain in _PLAIN_BASES.items() if isinstance(value, base))


def _plain_mapping(value: Mapping[Any, Any], where: str, dropped: list[str] | None, within: tuple[int, ...]) -> Any:
    if isinstance(value, OrderedDict) and all(type(v) in (Tensor, Parameter) for v in value.values()):
        return value  # a module's state keeps its metadata
    plain = {}
    for key, member in value.items():
        path = f"{where}.{key}" if where else str(key)
        try:
            plain[to_plain(key, path)] = to_plain(member, path, dropped, within)
        except Exception:  # besides NotPlainError whatever the methods of a user's own object raise
            if dropped is None:
                raise
            dropped.append(path)
    return Counter(plain) if isinstance(value, Counter) else plain


def _simpler(value: Any, where: str) -> Any:
    """The same in simpler types, which may hold others that are to be made simpler in turn."""
    for kind, simpler in _SIMPLER.items():
        if isinstance(value, kind):
            return simpler(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return _plain_numpy(value) if value.dtype.kind in "biufc" else value.tolist()
    raise NotPlainError(
        f"{where or 'the value'} is a {type(value).__module__}.{type(value).__qualname__}, which is no data."
    )


def _plain_numpy(value: Any) -> Any:
    """Numbers of numpy's: an array as a tensor, a scalar as Python's own; floats beyond 64 bits lose their last."""
    kind, dtype = value.dtype.kind, value.dtype.newbyteorder("=")
    too_long = dtype.itemsize > (16 if kind == "c" else 8)
    native = value.astype({"f": "float64", "c": "complex128"}[kind] if too_long else dtype)
    return torch.from_numpy(native) if native.ndim else native.item()


class TorchCheckpointIO(CheckpointIO):
    """Checkpoints as ``torch.save`` writes them, on local disks and on whatever fsspec reaches."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        """Write so that at ``path`` there is the old file or the whole new one, never less."""
        with replacing(path, "wb", storage_options) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read and check a checkpoint; a damaged one raises CheckpointCorruptedError."""
        return read_checkpoint(path, map_location or "cpu", weights_only)

    def remove_checkpoint(self, path: str) -> None:
        """Remove the file, or the directory, at ``path``."""
        if is_remote(path):
            system, inner = file_system(path)
            if system.exists(inner):
                system.rm(inner, recursive=True)
            return
        target = local_path(path)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def read_checkpoint(
    path: str | os.PathLike[str] | IO[bytes], map_location: Any, weights_only: bool | None
) -> dict[str, Any]:
    """Load a checkpoint from a path, a URL or an open file, its checksums verified.

    Raises:
        FileNotFoundError: There is none.
        CheckpointCorruptedError: It is torn or altered.
    """
    file: Any
    if isinstance(path, (str, os.PathLike)) and is_remote(path):
        system, inner = file_system(str(path))
        file = io.BytesIO(system.cat_file(inner))
    elif not isinstance(path, (str, os.PathLike)):
        file, path = io.BytesIO(path.read()), getattr(path, "name", "in memory")
    else:
        file = local_path(path)
        if not file.is_file():
            raise FileNotFoundError(f"There is no checkpoint at {str(path)!r}.")
    _verify(file, path)
    try:
        loaded: dict[str, Any] = torch.load(file, map_location=map_location, weights_only=weights_only is not False)
    except Exception as error:
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            raise RuntimeError(
                f"The checkpoint {str(path)!r} holds objects that are no data ({str(error).splitlines()[-1]}); "
                "pass weights_only=False only if you trust where it comes from, since that runs its code."
            ) from error
        if "PytorchStreamReader" in str(error):
            raise CheckpointCorruptedError(f"The checkpoint {str(path)!r} can't be read: {error}") from error
        raise
    return loaded


def _verify(file: Any, path: Any) -> None:
    """Compare every record of the file with its CRC, which PyTorch writes and never looks at."""
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except Exception as error:  # zipfile and zlib have many words for a wrong bit in the archive's own records
        if _is_legacy(file):
            return
        raise CheckpointCorruptedError(
            f"The checkpoint {str(path)!r} is torn or no checkpoint at all: {error}."
        ) from error
    finally:
        if isinstance(file, io.BytesIO):
            file.seek(0)
    if broken is not None:
        raise CheckpointCorruptedError(
            f"The checkpoint {str(path)!r} is damaged: {broken} is not what was written. Take an older one."
        )


def _is_legacy(file: Any) -> bool:
    """Whether this is PyTorch's format from before 1.6, a bare pickle, which has no checksums."""
    if isinstance(file, io.BytesIO):
        return file.getvalue()[:1] == b"\x80"
    with file.open("rb") as stream:
        return bool(stream.read(1) == b"\x80")

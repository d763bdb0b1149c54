"""A sharded checkpoint: a directory to which every process writes its part of the tensors.

    run.ckpt/leyden.ckpt             everything but the tensors of the model and the optimizers; names the shards
    run.ckpt/shards-1/__0_0.distcp   a file of each process, as ``torch.distributed.checkpoint`` writes it
    run.ckpt/shards-1/.metadata      where each part of each tensor is stored

``leyden.ckpt`` is written last, so a directory that has it is complete. A newer checkpoint at the same path first
writes shards with the next number. Reading a directory unpickles plain data only and runs no code.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import shlex
import shutil
import warnings
import zipfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from leyden.plugins import TorchCheckpointIO
from leyden.utilities.exceptions import CheckpointCorruptedError
from leyden.utilities.storage import flush_directory, is_remote, local_path

STATE_FILE = "leyden.ckpt"
_SHARDS = re.compile(r"shards-(\d+)")
_TENSOR = "tensor in the shards"  # the only key of a dict that stands for a tensor


def is_directory(path: str) -> bool:
    """Whether there is a sharded checkpoint at ``path``, or one that was never finished."""
    return not is_remote(path) and bool(_numbers(local_path(path)))


def _names_in(directory: Path) -> list[str]:
    return os.listdir(directory) if directory.is_dir() else []


def describe(path: str) -> str | None:
    """Say what a sharded checkpoint is, for whom a file is needed; None for another directory.

    Args:
        path: The local directory.
    """
    if is_directory(path):
        return (
            "it is a sharded checkpoint, which the strategies of leyden-sharded (fsdp, zero_1, zero_2, …) read; for "
            f"others, python -m leyden_sharded.consolidate {shlex.quote(path)} whole.ckpt makes one file of it"
        )
    if ".metadata" in _names_in(local_path(path)):
        return (
            "it is a distributed checkpoint of PyTorch or Lightning, which Leyden does not read; python -m "
            "torch.distributed.checkpoint.format_utils dcp_to_torch makes one file of its tensors"
        )
    return None


def take_out(tree: Any, tensors: dict[str, Tensor], where: str, kind: type[Tensor] = Tensor) -> Any:
    """Move the tensors of a state into ``tensors``; returns the state with their keys in their places.

    Args:
        tree: The state: nested dicts, lists and tuples.
        tensors: Collects the tensors, by key.
        where: The key of the state itself, a prefix of the keys of its tensors.
        kind: The class of the tensors to move.
    """
    if isinstance(tree, kind):
        tensors[where] = tree
        return stand_in(where)
    if isinstance(tree, Mapping):
        return {key: take_out(value, tensors, f"{where}/{key}", kind) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(take_out(value, tensors, f"{where}/{i}", kind) for i, value in enumerate(tree))
    return tree


def stand_in(key: str) -> dict[str, str]:
    """The dict that stands in a state for the tensor of this key."""
    return {_TENSOR: key}


def _keys(tree: Any) -> Iterator[str]:
    if (key := key_of(tree)) is not None:
        yield key
        return
    for member in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ():
        yield from _keys(member)


def holds_tensors(tree: Any) -> bool:
    """Whether keys stand for tensors anywhere in a state."""
    return any(True for _ in _keys(tree))


def key_of(value: Any) -> str | None:
    """The key of the tensor for which a value stands; None if it stands for none."""
    return value[_TENSOR] if isinstance(value, dict) and value.keys() == {_TENSOR} else None


class Shards:
    """The shards of a checkpoint, for reading.

    Args:
        directory: The directory of the shards.

    Raises:
        CheckpointCorruptedError: The file of metadata is missing, or can't be read as metadata.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.metadata = _read_metadata(directory)

    def damaged(self, among: slice = slice(None)) -> list[str]:
        """Check the files.

        Args:
            among: Which of the stored pieces to check, so that several processes can divide the work.

        Returns:
            Parts of a sentence about files that are missing or were altered; [] if there are none.
        """
        pieces = sorted(self.metadata.storage_data.values(), key=lambda info: (info.relative_path, info.offset))
        names = sorted({info.relative_path for info in pieces})
        if missing := [name for name in names if not (self.directory / name).is_file()]:
            return [f"{', '.join(missing)} of {len(names)} shards is missing"]
        broken = {piece.relative_path for piece in pieces[among] if not _is_intact(self.directory, piece)}
        return [f"{name} is not what was written" for name in sorted(broken)]

    def describe(self, key: str) -> tuple[torch.Size, torch.dtype]:
        """The shape and the type of a stored tensor."""
        stored = self.metadata.state_dict_metadata[key]
        assert isinstance(stored, TensorStorageMetadata)
        return stored.size, stored.properties.dtype

    def read(self, targets: dict[str, Tensor]) -> None:
        """Fill tensors, divided or whole, with the stored ones of the same keys; called by all processes together."""
        if targets:
            dcp.load(targets, storage_reader=dcp.FileSystemReader(self.directory))

    def read_whole(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Read whole tensors in this process only."""
        described = {key: self.describe(key) for key in keys}
        targets = {key: torch.empty(size, dtype=dtype) for key, (size, dtype) in described.items()}
        if targets:
            with _alone():
                dcp.load(targets, storage_reader=dcp.FileSystemReader(self.directory), no_dist=True)
        return targets


class StoredState(Mapping[Any, Any]):
    """A state whose tensors are in shards; an item's tensors are read, as whole ones, when the item is asked for.

    Attributes:
        skeleton: The state with keys in the places of tensors.
        shards: The shards that hold the tensors.
    """

    def __init__(self, skeleton: dict[Any, Any], shards: Shards) -> None:
        self.skeleton, self.shards = skeleton, shards

    def __getitem__(self, key: Any) -> Any:
        return put_back(self.skeleton[key], self.shards)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.skeleton[key] = value

    def __iter__(self) -> Iterator[Any]:
        return iter(self.skeleton)

    def __len__(self) -> int:
        return len(self.skeleton)


def put_back(tree: Any, shards: Shards) -> Any:
    """Replace the keys in a state by the whole tensors that are stored under them."""
    tensors = shards.read_whole(_keys(tree))

    def replaced(tree: Any) -> Any:
        if (key := key_of(tree)) is not None:
            return tensors[key]
        if isinstance(tree, dict):
            return {name: replaced(value) for name, value in tree.items()}
        return type(tree)(map(replaced, tree)) if isinstance(tree, (list, tuple)) else tree

    return replaced(tree)


# -- reading -----------------------------------------------------------------------------------------------


def open_directory(path: str, weights_only: bool | None = None) -> tuple[dict[str, Any], Shards]:
    """Open a sharded checkpoint.

    Args:
        path: The directory.
        weights_only: As in :meth:`CheckpointIO.load_checkpoint`.

    Returns:
        The checkpoint with keys in the places of tensors, and the shards that hold these.

    Raises:
        CheckpointCorruptedError: The checkpoint was never finished, or is damaged.
    """
    directory = local_path(path)
    if not (directory / STATE_FILE).is_file():
        raise CheckpointCorruptedError(
            f"The directory {path!r} has no {STATE_FILE}, which is written last, so it is a checkpoint that was never "
            "finished; load an older one."
        )
    stored = TorchCheckpointIO().load_checkpoint(str(directory / STATE_FILE), "cpu", weights_only)
    checkpoint, shards = (stored.get("checkpoint"), stored.get("shards")) if isinstance(stored, dict) else (None, None)
    if not isinstance(checkpoint, dict) or not _SHARDS.fullmatch(str(shards)):  # a path could lead elsewhere
        raise CheckpointCorruptedError(
            f"{STATE_FILE} in {path!r} is none of a sharded checkpoint, or does not name its shards; load an older one."
        )
    return checkpoint, Shards(directory / str(shards))


def refuse_damaged(path: str, damages: Iterable[str]) -> None:
    """Raise if there are damages among the shards of a checkpoint.

    Args:
        path: The checkpoint.
        damages: What :meth:`Shards.damaged` returned, in all processes.

    Raises:
        CheckpointCorruptedError: There is a damage.
    """
    if found := sorted(set(damages)):
        raise CheckpointCorruptedError(f"The checkpoint {path!r} is damaged: {'; '.join(found)}; load an older one.")


def _is_intact(directory: Path, piece: Any) -> bool:
    """Whether a stored piece matches the checksums that were written with it, which PyTorch does not check."""
    with (directory / piece.relative_path).open("rb") as file:
        file.seek(piece.offset)
        written = file.read(piece.length)
    try:
        with zipfile.ZipFile(io.BytesIO(written)) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile and zlib raise many kinds of errors for a wrong bit
        return False


# The classes and functions that metadata may name, by module.
_DATA = {
    "torch.distributed.checkpoint.metadata": (
        "Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "MetadataIndex", "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))),
    "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
}  # fmt: skip


class _DataUnpickler(pickle.Unpickler):
    """Reads PyTorch's metadata and nothing else; an ordinary unpickler would run any code that the file names."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class if metadata may name it; else raise."""
        if name not in _DATA.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def _read_metadata(directory: Path) -> Metadata:
    path = directory / ".metadata"
    try:
        with path.open("rb") as file:
            metadata = _DataUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"it is a {type(metadata).__name__}")
        files = {info.relative_path for info in metadata.storage_data.values()}
        if elsewhere := [name for name in files if name != os.path.basename(name)]:
            raise pickle.UnpicklingError(f"it names files elsewhere ({elsewhere[0]!r})")
    except Exception as error:  # unpickling raises many kinds of errors for a wrong byte
        raise CheckpointCorruptedError(f"{str(path)!r} can't be read as a checkpoint's metadata: {error}.") from error
    return metadata


# -- writing -----------------------------------------------------------------------------------------------


def new_shards(path: str) -> Path:
    """Make a new directory for shards within the checkpoint ``path``; a file at ``path`` is moved aside."""
    directory = local_path(path)
    if directory.is_file():
        _move_aside(directory)
    directory.mkdir(parents=True, exist_ok=True)
    while True:
        shards = directory / f"shards-{max(_numbers(directory), default=0) + 1}"
        with suppress(FileExistsError):  # another run that saves to the same path has just made it
            shards.mkdir()
            return shards


def _numbers(directory: Path) -> list[int]:
    return [int(match[1]) for name in _names_in(directory) if (match := _SHARDS.fullmatch(name))]


def save_options(shards: Path) -> dict[str, Any]:
    """PyTorch's arguments for writing tensors to ``shards``; of equal copies, that of the lowest rank is written."""
    planner = DefaultSavePlanner(dedup_save_to_lowest_rank=True)
    return {"storage_writer": dcp.FileSystemWriter(shards), "planner": planner}


def save_alone(tensors: dict[str, Tensor], shards: Path) -> None:
    """Write tensors to ``shards`` in this process only."""
    with _alone():
        dcp.save(tensors, no_dist=True, **save_options(shards))


@contextmanager
def _alone() -> Generator[None, None, None]:
    """A block without PyTorch's warning that a single process reads or writes, which is intended here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def finish(path: str, state: dict[str, Any], shards: Path) -> None:
    """Finish a checkpoint whose shards are written, and remove older ones; called in one process.

    Args:
        path: The checkpoint.
        state: The checkpoint with keys in the places of tensors.
        shards: The directory of the shards.

    Raises:
        FileNotFoundError: Another run has saved to the same path meanwhile, and removed the shards.
    """
    directory = local_path(path)
    if not (shards / ".metadata").is_file():
        raise FileNotFoundError(f"{str(shards)!r} is gone: another run saves to {path!r}; save elsewhere.")
    for place in (shards, directory):
        flush_directory(place)
    TorchCheckpointIO().save_checkpoint({"checkpoint": state, "shards": shards.name}, str(directory / STATE_FILE))
    flush_directory(directory.parent)
    for number in _numbers(directory):
        if number < int(shards.name.removeprefix("shards-")):
            shutil.rmtree(directory / f"shards-{number}")
    TorchCheckpointIO().remove_checkpoint(str(_aside(directory)))


def step_aside(path: str) -> Path | None:
    """Move a sharded checkpoint at ``path`` aside, so that a file can be written there.

    Returns:
        Where it was moved; None if there is no directory at ``path``.

    Raises:
        IsADirectoryError: The directory at ``path`` is no sharded checkpoint.
    """
    directory = local_path(path)
    if is_remote(path) or not directory.is_dir():
        return None
    if not is_directory(path) and any(directory.iterdir()):
        raise IsADirectoryError(f"{path!r} is no sharded checkpoint, so it is not replaced; save elsewhere.")
    return _move_aside(directory)


def _aside(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.replaced")


def _move_aside(path: Path) -> Path:
    TorchCheckpointIO().remove_checkpoint(str(_aside(path)))
    return path.rename(_aside(path))

"""Checkpoint files: plain data and tensors only, written so that no kill tears them, checked when they are read."""

import io
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from pickle import UnpicklingError
from pickletools import genops
from typing import IO, Any

import torch

from leyden.interfaces.checkpoint_io import CheckpointIO
from leyden.plugin_system.discovery import discover
from leyden.utilities.exceptions import CheckpointCorruptedError, MisconfigurationException
from leyden.utilities.storage import file_system, is_remote, local_path, replacing

_PARTS: dict[str, Any] = {
    **dict.fromkeys(("state_dict", "hyper_parameters", "datamodule_hyper_parameters", "callbacks"), Mapping),
    **dict.fromkeys(("hparams_name", "datamodule_hparams_name"), str | None),
}
_STATE_DICT = re.compile(rb"(X\n\0\0\0|\x8c\n)state_dict")  # the whole of a pickled text


class TorchCheckpointIO(CheckpointIO):
    """Checkpoints as ``torch.save`` writes them, on local disks and on whatever fsspec reaches."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        """Write so that at ``path`` there is the old file or the whole new one, never less."""
        with replacing(path, "wb", storage_options) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint from a path, a URL or an open file, its checksums verified.

        Raises:
            FileNotFoundError: There is none.
            MisconfigurationException: It is a directory.
            CheckpointCorruptedError: It is torn or altered, or is no checkpoint.
        """
        named = str(path if isinstance(path, (str, os.PathLike)) else getattr(path, "name", "in memory"))
        with _opened(path) as file:
            try:
                _verify(file)
                return torch.load(file, map_location or "cpu", weights_only=weights_only)  # type: ignore[no-any-return]
            except Exception as error:  # zipfile, zlib and PyTorch have many words for a wrong bit
                named_in_code = weights_only is False and isinstance(error, (AttributeError, ImportError))
                if named_in_code or "map_location" in str(error):
                    raise
                raise _refusal(error, file, named) from error

    def remove_checkpoint(self, path: str) -> None:
        """Remove the file, or the local directory, at ``path``."""
        target = local_path(path)
        if is_remote(path):
            system, inner = file_system(path)
            if system.isfile(inner):
                system.rm_file(inner)
        elif target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def _refusal(error: Exception, file: IO[bytes], named: str) -> RuntimeError:
    """What to say of a file that can't be read: only for a checkpoint may it be worth the risk to run its code."""
    said = str(error).rpartition("WeightsUnpickler error: ")[2].strip()  # PyTorch's text before it advises to run it
    if found := re.search(r"GLOBAL (\S+)", said):
        said = f"it holds objects that are no data ({found[1]})"
    file.seek(0)
    if found and _STATE_DICT.search(file.read(1 << 20)):
        return RuntimeError(
            f"The checkpoint {named!r} can't be read as data, since {said}; pass weights_only=False only if you trust "
            "where it comes from, since that runs its code."
        )
    reason = re.split(r"(?<=\S)\. |\n", said)[0] or type(error).__name__
    return CheckpointCorruptedError(f"{named!r} is damaged, or is no checkpoint: {reason}. Take an older one.")


def refuse_foreign(checkpoint: Any, path: Any) -> dict[str, Any]:
    """Return what was read from ``path``, or say that it is no checkpoint of a run."""
    parts = checkpoint if isinstance(checkpoint, Mapping) else {}
    for key, kind in _PARTS.items():
        if (key in parts or key == "state_dict") and not isinstance(parts.get(key), kind):
            raise MisconfigurationException(
                f"{str(path)!r} is no checkpoint of a run: it holds a {type(checkpoint).__name__} with the keys "
                f"{[*parts][:3]}, and {key!r} is missing or of another type. Load weights "
                "alone with load_state_dict(torch.load(path))."
            )
    return checkpoint  # type: ignore[no-any-return]


def _opened(path: str | os.PathLike[str] | IO[bytes]) -> IO[bytes]:
    """The bytes of a checkpoint, read at will; the user's own file is left open."""
    if not isinstance(path, (str, os.PathLike)):
        return io.BytesIO(path.read())
    if is_remote(path):
        system, inner = file_system(str(path))
        return io.BytesIO(system.cat_file(inner))
    if local_path(path).is_dir():
        kind = discover().hook.leyden_describe_checkpoint(path=str(local_path(path)))
        kind = kind or "it is no checkpoint that an installed plugin knows, so resume with the strategy that wrote it"
        raise MisconfigurationException(f"{str(path)!r} is a directory: {kind}.")
    if not local_path(path).is_file():
        raise FileNotFoundError(f"There is no checkpoint at {str(path)!r}.")
    return local_path(path).open("rb")


def _verify(file: IO[bytes]) -> None:
    """Compare every record of the file with its CRC, which PyTorch writes and never looks at, and its size before."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    pickles = [file] * 4  # PyTorch's format from before 1.6, of which the fourth has the value, without checksums
    if file.read(1) != b"\x80":
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            if any(record.compress_type for record in records) or sum(record.file_size for record in records) > size:
                raise zipfile.BadZipFile("its records are packed, as PyTorch's never are")
            if broken := archive.testzip():
                raise zipfile.BadZipFile(f"{broken} is not what was written")
            values = [archive.read(record) for record in records if record.filename.endswith("/data.pkl")]
            pickles = [io.BytesIO(value) for value in values if b"bytearray" in value]
    file.seek(0)
    for pickled in pickles:
        _refuse_allocations(pickled)
    file.seek(0)


def _refuse_allocations(pickled: IO[bytes]) -> None:
    """Refuse a pickle that makes a bytearray of a number, which takes any memory; picklers make it of encoded text."""
    called: Any = ""  # what was named just now
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in genops(pickled):
        if "PUT" in opcode.name:
            memo[argument] = called
            continue
        name = memo.get(argument, "") if "GET" in opcode.name else argument if opcode.name == "GLOBAL" else ""
        if called.endswith(" bytearray") and opcode.name != "EMPTY_TUPLE" and name != "_codecs encode":
            raise UnpicklingError("it makes a bytearray of something else than text")
        called = name

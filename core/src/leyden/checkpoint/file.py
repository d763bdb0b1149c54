"""Checkpoint files: plain data and tensors only, written so that no kill tears them, checked when they are read."""

import io
import os
import shutil
import zipfile
from typing import IO, Any

import torch

from leyden.interfaces.checkpoint_io import CheckpointIO
from leyden.utilities.exceptions import CheckpointCorruptedError
from leyden.utilities.storage import file_system, is_remote, local_path, replacing


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
    named = path if isinstance(path, (str, os.PathLike)) else getattr(path, "name", "in memory")
    with _opened(path) as file:
        _verify(file, named)
        try:
            loaded: dict[str, Any] = torch.load(file, map_location=map_location, weights_only=weights_only is not False)
        except Exception as error:
            if "weights_only" in str(error).lower() or "Unsupported" in str(error):
                raise RuntimeError(
                    f"The checkpoint {str(named)!r} holds objects that are no data ({str(error).splitlines()[-1]}); "
                    "pass weights_only=False only if you trust where it comes from, since that runs its code."
                ) from error
            if "PytorchStreamReader" in str(error):
                raise CheckpointCorruptedError(f"The checkpoint {str(named)!r} can't be read: {error}") from error
            raise
    return loaded


def _opened(path: str | os.PathLike[str] | IO[bytes]) -> IO[bytes]:
    """The bytes of a checkpoint, read at will; the user's own file is left open."""
    if not isinstance(path, (str, os.PathLike)):
        return io.BytesIO(path.read())
    if is_remote(path):
        system, inner = file_system(str(path))
        return io.BytesIO(system.cat_file(inner))
    if not local_path(path).is_file():
        raise FileNotFoundError(f"There is no checkpoint at {str(path)!r}.")
    return local_path(path).open("rb")


def _verify(file: IO[bytes], name: Any) -> None:
    """Compare every record of the file with its CRC, which PyTorch writes and never looks at."""
    if file.read(1) == b"\x80":
        file.seek(0)
        return  # PyTorch's format from before 1.6, a bare pickle, which has no checksums
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except Exception as error:  # zipfile and zlib have many words for a wrong bit in the archive's own records
        raise CheckpointCorruptedError(
            f"The checkpoint {str(name)!r} is torn or no checkpoint at all: {error}."
        ) from error
    if broken is not None:
        raise CheckpointCorruptedError(
            f"The checkpoint {str(name)!r} is damaged: {broken} is not what was written. Take an older one."
        )
    file.seek(0)

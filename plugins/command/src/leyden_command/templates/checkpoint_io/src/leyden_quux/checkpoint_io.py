"""The quux checkpoint IO: private files, written whole or not at all, and checked for damage when read."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from leyden.plugins import CheckpointIO


class QuuxCheckpointIO(CheckpointIO):
    """Writes checkpoints as files of mode 0600, which only their owner may read.

    Example::

        trainer = Trainer(plugins=["quux"])
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        """Write a temporary file and rename it, so that at any time either the old or the whole new file exists."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # its mode is 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def load_checkpoint(self, path: str, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Check the file against its checksums and read it.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged.
        """
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"The checkpoint {path!r} is damaged: {damaged} has a wrong checksum.")
        loaded: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=weights_only)
        return loaded

    def remove_checkpoint(self, path: str) -> None:
        """Remove the file if it exists."""
        Path(path).unlink(missing_ok=True)

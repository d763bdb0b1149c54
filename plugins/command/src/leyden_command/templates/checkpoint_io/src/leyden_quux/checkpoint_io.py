"""The quux checkpoint IO: files that only their owner may read, written whole or not at all, and checked when read."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from leyden.plugins import CheckpointIO


class QuuxCheckpointIO(CheckpointIO):
    """Checkpoints as files of mode 0600, for models whose weights are nobody else's business.

    Example::

        trainer = Trainer(plugins=["quux"])
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        """Write beside, flush, rename: at every moment there is the old file or the whole new one."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # with the mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise

    def load_checkpoint(self, path: str, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Compare the file with its checksums, and read it.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is not what was written.
        """
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"The checkpoint {path!r} is damaged: {damaged} is not what was written.")
        loaded: dict[str, Any] = torch.load(
            path, map_location=map_location or "cpu", weights_only=weights_only is not False
        )
        return loaded

    def remove_checkpoint(self, path: str) -> None:
        """Remove the file, if it is there."""
        Path(path).unlink(missing_ok=True)

"""CheckpointIO: how a checkpoint gets to storage and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class CheckpointIO(ABC):
    """Saves, loads and removes checkpoints; an author *must* write all three methods.

    One that still writes when :meth:`save_checkpoint` has returned *may* write :meth:`teardown`, which waits for it.

    ``path`` is a local path or a URL that fsspec understands.
    """

    @abstractmethod
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        """Write ``checkpoint`` so that a kill at any moment leaves either the old file or the whole new one."""

    @abstractmethod
    def load_checkpoint(self, path: str, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; raise FileNotFoundError where there is none, and never return a damaged one.

        ``weights_only=False`` unpickles anything, code included: only for files from a trusted source.
        None means True.
        """

    @abstractmethod
    def remove_checkpoint(self, path: str) -> None:
        """Remove the checkpoint at ``path``; nothing happens where there is none."""

    def teardown(self) -> None:
        """Finish what is still being written."""

"""CheckpointIO: how a checkpoint is written to storage and read from it."""

from abc import ABC, abstractmethod
from typing import Any


class CheckpointIO(ABC):
    """Saves, loads and removes checkpoints; an author *must* write all three methods.

    An author whose :meth:`save_checkpoint` returns before everything is written *may* write :meth:`teardown`, which
    waits for the rest. ``path`` is a local path or a URL that fsspec understands.
    """

    @abstractmethod
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        """Write a checkpoint; if the process is killed meanwhile, the old file or the whole new one must be there.

        Args:
            checkpoint: Plain data and tensors.
            path: Where to.
            storage_options: What the user gave to ``Trainer.save_checkpoint``, for this class only.
        """

    @abstractmethod
    def load_checkpoint(self, path: str, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; a damaged one must raise an error and not be returned.

        Args:
            path: Where from.
            map_location: The device for its tensors, as in ``torch.load``.
            weights_only: False unpickles anything, code included, and is only for files from a trusted source. None
                means True, unless the environment variable ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD`` is set.

        Raises:
            FileNotFoundError: There is no checkpoint at ``path``.
        """

    @abstractmethod
    def remove_checkpoint(self, path: str) -> None:
        """Remove the checkpoint at ``path``; where there is none, nothing happens."""

    def teardown(self) -> None:
        """Finish what is still being written; called at the end of a run."""

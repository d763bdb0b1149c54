"""Turn a sharded checkpoint into one file that any strategy and plain PyTorch can load, or a file into a sharded one.

    python -m leyden_sharded.consolidate run.ckpt whole.ckpt    # run.ckpt is a directory
    python -m leyden_sharded.consolidate whole.ckpt run.ckpt    # whole.ckpt is a file

It needs no accelerator and no other process. It needs memory for the whole checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from leyden.plugins import TorchCheckpointIO, refuse_foreign
from leyden.utilities.exceptions import CheckpointCorruptedError, MisconfigurationException
from leyden.utilities.storage import local_path
from leyden_sharded import directory
from leyden_sharded.checkpoints import STATES


def consolidate(source: str, target: str) -> None:
    """Write the checkpoint ``source`` in the other form to ``target``.

    Args:
        source: The path of a directory or a file.
        target: The path of the file or the directory to write.

    Raises:
        FileNotFoundError: ``source`` does not exist.
        FileExistsError: ``target`` exists already.
        CheckpointCorruptedError: ``source`` is damaged, or was never finished.
        MisconfigurationException: ``source`` is a file that holds no model.
    """
    if not local_path(source).exists():
        raise FileNotFoundError(f"There is no checkpoint at {source!r}.")
    if local_path(target).exists():
        raise FileExistsError(f"There is something at {target!r} already; remove it, or write elsewhere.")
    if local_path(source).is_dir():
        _to_file(source, target)
    else:
        _to_directory(source, target)


def _to_file(source: str, target: str) -> None:
    checkpoint, shards = directory.open_directory(source)
    directory.refuse_damaged(source, shards.damaged())
    TorchCheckpointIO().save_checkpoint(directory.put_back(checkpoint, shards), target)


def _to_directory(source: str, target: str) -> None:
    checkpoint = refuse_foreign(TorchCheckpointIO().load_checkpoint(source), source)
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {
        key: directory.take_out(value, tensors, key) if key in STATES else value for key, value in checkpoint.items()
    }
    if not tensors:
        raise MisconfigurationException(f"{source!r} has no state_dict with tensors; it is no checkpoint of a model.")
    shards = directory.new_shards(target)
    directory.save_alone(tensors, shards)
    directory.finish(target, rest, shards)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m leyden_sharded.consolidate",
        description="Turn a sharded checkpoint (a directory) into one file, or a file into a sharded checkpoint.",
    )
    parser.add_argument("source", help="the checkpoint: a directory or a file")
    parser.add_argument("target", help="where the other form goes")
    options = parser.parse_args(arguments)
    try:
        consolidate(options.source, options.target)
    except (OSError, CheckpointCorruptedError, MisconfigurationException) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

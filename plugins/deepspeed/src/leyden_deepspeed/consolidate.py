"""Turn a checkpoint that DeepSpeed wrote into one file of whole 32-bit weights.

    python -m leyden_deepspeed.consolidate run.ckpt whole.ckpt

``load_from_checkpoint`` loads the file, and so do ``ckpt_path`` of ``validate``, ``test`` and ``predict`` under any
strategy, and plain PyTorch. DeepSpeed's files are pickles, and reading them can run code: use files that you trust.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from leyden.plugins import CHECKPOINT_KEY, TorchCheckpointIO
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.storage import local_path
from leyden_deepspeed.checkpoints import ENGINE_KEY, REST, is_directory, read_weights

SEALED = "sealed"  # of Leyden's own part: what is no plain data, which is opened only if the user trusts the file
# The parts of a checkpoint that are needed only to resume a fit.
OF_TRAINING = ("optimizer_states", "lr_schedulers", "callbacks", CHECKPOINT_KEY, ENGINE_KEY)


def consolidate(source: str, target: str) -> None:
    """Write the weights of a checkpoint to one file; this needs memory for all of them.

    Args:
        source: The directory of the checkpoint.
        target: The path of the file.

    Raises:
        FileExistsError: ``target`` exists already.
        MisconfigurationException: ``source`` is no checkpoint of strategy="deepspeed".
    """
    if not is_directory(source):
        raise MisconfigurationException(f"{source!r} is no checkpoint of strategy='deepspeed'.")
    if local_path(target).exists():
        raise FileExistsError(f"There is something at {target!r} already; remove it, or write elsewhere.")
    directory = local_path(source)
    rest = TorchCheckpointIO().load_checkpoint(str(directory / REST))
    checkpoint = {key: value for key, value in rest.items() if key not in OF_TRAINING}
    if sealed := rest.get(CHECKPOINT_KEY, {}).get(SEALED):
        checkpoint[CHECKPOINT_KEY] = {SEALED: sealed}
    TorchCheckpointIO().save_checkpoint({**checkpoint, "state_dict": read_weights(directory)}, target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m leyden_deepspeed.consolidate",
        description="Turn a checkpoint that DeepSpeed wrote (a directory) into one file of whole 32-bit weights.",
    )
    parser.add_argument("source", help="the directory")
    parser.add_argument("target", help="where the file goes")
    options = parser.parse_args(arguments)
    try:
        consolidate(options.source, options.target)
    except (OSError, MisconfigurationException) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

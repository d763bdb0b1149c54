"""Turn a checkpoint that DeepSpeed wrote into one file of whole 32-bit weights.

    python -m leyden_deepspeed.consolidate run.ckpt whole.ckpt

The file is loaded by ``load_from_checkpoint``, by ``ckpt_path`` of ``validate``, ``test`` and ``predict`` under any
strategy, and by plain PyTorch. DeepSpeed's files are pickles, and reading them can run code: trust who wrote them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from leyden.checkpoint.contents import OWN_KEY
from leyden.checkpoint.file import TorchCheckpointIO
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.storage import local_path
from leyden_deepspeed.checkpoints import ENGINE_KEY, REST, is_directory, read_weights

# What only a run that goes on could use.
OF_TRAINING = ("optimizer_states", "lr_schedulers", "callbacks", OWN_KEY, ENGINE_KEY)


def consolidate(source: str, target: str) -> None:
    """Write the weights of the checkpoint ``source`` to the file ``target``; it needs memory for all of them.

    Raises:
        FileExistsError: There is something at ``target``.
        MisconfigurationException: ``source`` is no checkpoint of strategy="deepspeed".
    """
    if not is_directory(source):
        raise MisconfigurationException(f"{source!r} is no checkpoint of strategy='deepspeed': it has no {REST}.")
    if local_path(target).exists():
        raise FileExistsError(f"There is something at {target!r} already; remove it, or write elsewhere.")
    directory = local_path(source)
    rest = TorchCheckpointIO().load_checkpoint(str(directory / REST))
    checkpoint = {key: value for key, value in rest.items() if key not in OF_TRAINING}
    TorchCheckpointIO().save_checkpoint({**checkpoint, "state_dict": read_weights(directory)}, target)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
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

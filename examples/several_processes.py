"""Train the digits model in several processes; model and data are unchanged, only the Trainer gets a strategy.

    python examples/several_processes.py --strategy ddp_spawn
    torchrun --standalone --nproc-per-node 2 examples/several_processes.py --strategy ddp
    python examples/several_processes.py --strategy zero_3

- ``ddp`` has the whole model in every process and averages gradients. A plain script starts itself again for the
  other processes; with ``torchrun`` or a cluster's launcher all processes exist already.
- ``ddp_spawn`` starts processes that run a function instead of the script, and returns the results to this process.
- ``zero_3`` divides parameters, gradients and optimizer states among the processes.

Each process gets the same number of batches of the data. Values logged with ``sync_dist=True`` are means over all
processes.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from digits import DigitClassifier, Digits

import leyden as pl
from leyden.callbacks import ModelCheckpoint


def main(arguments: Namespace) -> None:
    """Train, then test the best weights. Every process runs this function; with ``ddp_spawn`` only this one does."""
    pl.seed_everything(7, verbose=False)
    best = ModelCheckpoint(dirpath="several/checkpoints", monitor="val_loss")
    trainer = pl.Trainer(**vars(arguments), callbacks=best, logger=False, enable_model_summary=False)
    trainer.fit(DigitClassifier(), datamodule=Digits())
    [results] = trainer.test(datamodule=Digits(), ckpt_path="best")
    trainer.print(
        f"{trainer.world_size} processes took {trainer.global_step} steps; accuracy {results['test_acc']:.3f}"
    )


if __name__ == "__main__":
    parser = ArgumentParser(description="Trainer arguments; see leyden.Trainer.")
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--max_epochs", type=int, default=8)
    main(parser.parse_args())

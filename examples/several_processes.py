"""The digits again, in several processes: the model and the data stay as they are, the Trainer gets a strategy.

    python examples/several_processes.py --strategy ddp_spawn
    torchrun --standalone --nproc-per-node 2 examples/several_processes.py --strategy ddp
    python examples/several_processes.py --strategy zero_3

- ``ddp`` keeps the model in every process and averages gradients. Started as a plain script it starts the script
  again for the other processes; under ``torchrun`` or a cluster's launcher all processes are there already.
- ``ddp_spawn`` starts functions instead of scripts and brings everything back into this process.
- ``zero_3`` keeps parameters, gradients and optimizer states in parts, one in each process.

Each process takes its part of the data, as many batches as every other. What is logged with ``sync_dist=True``
is the mean over all.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from digits import DigitClassifier, Digits

import leyden as pl
from leyden.callbacks import ModelCheckpoint


def main(arguments: Namespace) -> None:
    """Train, and test the best weights; every process runs this, or, with ``ddp_spawn``, this one alone."""
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

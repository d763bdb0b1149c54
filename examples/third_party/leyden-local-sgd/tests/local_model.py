"""A small model, its data, and runs in two processes; in a separate module, so that the processes can import it."""

import json

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl


def rows(count=32, batch_size=4):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 4, generator=generator)
    return DataLoader(TensorDataset(x, x @ torch.tensor([1.0, -2.0, 3.0, 0.5])), batch_size, shuffle=False)


class Line(pl.LightningModule):
    """A linear model that keeps its weights after each batch.

    Args:
        momentum: The momentum of SGD.
    """

    def __init__(self, momentum=0.0):
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.norm = nn.Linear(4, 1), nn.BatchNorm1d(4)
        self.momentum, self.seen, self.validated = momentum, [], []

    def training_step(self, batch):
        return self.loss(batch)

    def loss(self, batch):
        x, y = batch
        return (self.layer(self.norm(x)).squeeze(1) - y).square().mean()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.seen.append(self.layer.weight.detach().flatten().tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=self.momentum)


class Validated(Line):
    """The same model with a validation step, which keeps the weights used in it."""

    def validation_step(self, batch):
        self.log("val_loss", self.loss(batch), sync_dist=True)
        self.validated.append(self.layer.weight.detach().flatten().tolist())


class Report(pl.Callback):
    """Writes, in each process at the end of the run, the weights that its model kept and its last weights.

    Args:
        directory: The directory to write to.
    """

    def __init__(self, directory):
        self.directory = directory

    def teardown(self, trainer, pl_module, stage):
        state = {name: value.tolist() for name, value in pl_module.state_dict().items()}
        report = {"seen": pl_module.seen, "validated": pl_module.validated, "state": state}
        (self.directory / f"{trainer.global_rank}.json").write_text(json.dumps(report))


class SaveAfter(pl.Callback):
    """Saves a checkpoint after some batches.

    Args:
        path: The path to save to.
        batches: The number of batches after which to save.
    """

    def __init__(self, path, batches):
        self.path, self.batches = path, batches

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.batches:
            trainer.save_checkpoint(self.path)


def trained(directory, model, val=None, ckpt_path=None, **arguments):
    """Fit in two spawned processes and return each one's report."""
    directory.mkdir(exist_ok=True)
    arguments["callbacks"] = [*arguments.get("callbacks", ()), Report(directory)]
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=directory, **arguments,
    )  # fmt: skip
    trainer.fit(model, rows(), val, ckpt_path=ckpt_path)
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(2)]

"""Leyden trains on from a checkpoint of pytorch-lightning, and the other way round."""

import importlib
import warnings

import pytest
import torch
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import StepLR

from leyden_testing.models import rows

from .parity_harness import Lab


def make_model(lab):
    class Model(lab.Model):
        """Without dropout: the random state goes on where it was, which is not what is compared here."""

        def __init__(self, width=3):
            super().__init__()
            self.save_hyperparameters()
            self.dropout = nn.Identity()

        def configure_optimizers(self):
            optimizer = Adam(self.parameters(), lr=0.1)
            return [optimizer], [StepLR(optimizer, 1, gamma=0.5)]

    return Model


def train(framework, tmp_path, epochs, ckpt_path=None):
    """Train up to ``epochs``; return the lab, the trainer, its stopping callback and the checkpoint's path."""
    with warnings.catch_warnings():
        if framework == "pytorch_lightning":
            warnings.simplefilter("ignore")
        lab = Lab(importlib.import_module(framework), tmp_path)
        torch.manual_seed(0)
        warnings.filterwarnings("ignore", module="leyden")
        stopping = lab.pl.callbacks.EarlyStopping("train_loss", patience=9)
        kept = lab.pl.callbacks.ModelCheckpoint(monitor="train_loss", dirpath=tmp_path / "kept")
        trainer = lab.trainer(max_epochs=epochs, callbacks=[stopping, kept], enable_checkpointing=True)
        trainer.fit(make_model(lab)(), rows(3), rows(1), ckpt_path=ckpt_path)
        path = tmp_path / f"{framework}-{epochs}.ckpt"
        trainer.save_checkpoint(path)
        return lab, trainer, stopping, path


@pytest.mark.parametrize(
    ("writer", "reader"), [("pytorch_lightning", "leyden"), ("leyden", "pytorch_lightning"), ("leyden", "leyden")]
)
def test_training_goes_on_in_the_other(tmp_path, writer, reader):
    _, whole, stopping_of_whole, _ = train(writer, tmp_path, 4)
    _, _, _, path = train(writer, tmp_path, 2)
    _, rest, stopping, _ = train(reader, tmp_path, 4, ckpt_path=path)
    assert (rest.current_epoch, rest.global_step) == (4, 12)
    assert stopping.state_dict().keys() == stopping_of_whole.state_dict().keys()
    assert torch.equal(torch.as_tensor(stopping.best_score), torch.as_tensor(stopping_of_whole.best_score))
    assert rest.optimizers[0].param_groups[0]["lr"] == whole.optimizers[0].param_groups[0]["lr"]
    for a, b in zip(rest.lightning_module.parameters(), whole.lightning_module.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("writer", "reader"), [("pytorch_lightning", "leyden"), ("leyden", "pytorch_lightning")])
def test_load_from_checkpoint_of_the_other(tmp_path, writer, reader):
    _, trainer, _, path = train(writer, tmp_path, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lab = Lab(importlib.import_module(reader), tmp_path)
    loaded = make_model(lab).load_from_checkpoint(path)
    assert dict(loaded.hparams) == {"width": 3}
    for a, b in zip(loaded.parameters(), trainer.lightning_module.parameters(), strict=True):
        assert torch.equal(a, b)

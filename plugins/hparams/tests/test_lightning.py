"""Lightning loads our checkpoints, whatever is sealed in them, and we load its; and where the two differ on purpose."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import pytest
import pytorch_lightning
import torch
from torch import nn

import leyden as pl
from leyden.utilities import MisconfigurationException
from leyden_testing.models import rows
from leyden_testing.training import same_weights

from .saving import Config, Inner, Mode

pytestmark = pytest.mark.filterwarnings("ignore")


def twin(library: Any) -> Any:
    """The same model in either framework."""

    class Model(library.LightningModule):
        def __init__(self, mode: Mode, config: Config, act: Any = torch.relu, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = nn.Linear(width, 2)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Model


OPTIONS = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
GIVEN = {"mode": Mode.SLOW, "config": Config(3, Inner(Mode.FAST)), "act": torch.tanh}


def saved_by(library: Any, root: Any) -> tuple[Any, Any]:
    model = twin(library)(**GIVEN)
    trainer = library.Trainer(max_epochs=1, default_root_dir=root, devices=1, enable_checkpointing=False, **OPTIONS)
    trainer.fit(model, rows(1))
    trainer.save_checkpoint(root / "a.ckpt")
    return model, root / "a.ckpt"


def test_lightning_loads_ours(tmp_path):
    model, path = saved_by(pl, tmp_path)
    theirs = twin(pytorch_lightning)
    loaded = theirs.load_from_checkpoint(path, **GIVEN)
    assert same_weights(loaded, model)
    assert loaded.hparams["width"] == 4
    resumed = theirs(**GIVEN)
    options = {"max_epochs": 2, "default_root_dir": tmp_path, "devices": 1, "enable_checkpointing": False, **OPTIONS}
    pytorch_lightning.Trainer(**options).fit(resumed, rows(1), ckpt_path=path)


def test_we_load_theirs(tmp_path):
    model, path = saved_by(pytorch_lightning, tmp_path)
    loaded = twin(pl).load_from_checkpoint(path, weights_only=False)
    assert same_weights(loaded, model)
    assert dict(loaded.hparams) == {**GIVEN, "width": 4}
    with pytest.raises(RuntimeError, match="weights_only=False only if you trust"):
        twin(pl).load_from_checkpoint(path)


def test_where_we_differ_on_purpose(tmp_path):
    """Lightning pickles hyperparameters into its checkpoints, which load with ``weights_only=False`` or not at all.

    Ours load as data: what the annotations name comes back, and an error names the rest.
    """
    _, path = saved_by(pytorch_lightning, tmp_path)
    with pytest.raises(pickle.UnpicklingError):
        twin(pytorch_lightning).load_from_checkpoint(path)
    _, path = saved_by(pl, tmp_path)
    with pytest.raises(MisconfigurationException, match=r"act \(a .*load_from_checkpoint\(path, act=\.\.\.\)"):
        twin(pl).load_from_checkpoint(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dict(twin(pl).load_from_checkpoint(path, act=None).hparams) == {**GIVEN, "act": None, "width": 4}

"""A Trainer with loggers, callbacks and a progress bar is pickled and deep-copied, and the copy runs again."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

import leyden as pl
from leyden.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, RichProgressBar, TQDMProgressBar
from leyden.loggers import CSVLogger, TensorBoardLogger
from leyden_testing.models import ValidatedModel, rows

PARTS: dict[str, dict[str, Any]] = {
    "tqdm": {"callbacks": [TQDMProgressBar()], "logger": True},
    "rich": {"callbacks": [RichProgressBar()], "enable_model_summary": True},
    "callbacks": {
        "callbacks": [
            ModelCheckpoint(monitor="val_loss", save_last=True),
            EarlyStopping("val_loss"),
            LearningRateMonitor(),
        ],
        "logger": True,
        "max_time": "00:01:00:00",
    },
    "profiler": {"profiler": "simple", "precision": "bf16-mixed"},
}


@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # the copy saves into that of the original
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("way", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_the_copy_runs_again(tmp_path: Path, parts: str, way: Any) -> None:
    options = copy.deepcopy(PARTS[parts])
    if options.pop("logger", False):
        options["logger"] = [TensorBoardLogger(tmp_path / "tensorboard"), CSVLogger(tmp_path / "csv")]
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, log_every_n_steps=1, default_root_dir=tmp_path, **{"logger": False, **options}
    )
    model = ValidatedModel()
    trainer.fit(model, rows(3), rows(1))
    twin = way(trainer)
    twin.fit_loop.max_epochs = 2
    twin.fit(twin.model, rows(3), rows(1))
    twin.validate(twin.model, rows(1), verbose=False)
    assert (twin.global_step, trainer.global_step) == (6, 3)

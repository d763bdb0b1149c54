"""What a newcomer does first: a short run with everything at its default, and a look at what it has left."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import leyden as pl
from leyden.loggers import CSVLogger, TensorBoardLogger
from leyden_testing.models import LoggingModel, rows


class Model(LoggingModel):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()


@pytest.mark.filterwarnings("ignore:An epoch has", "ignore:No limit was given", "ignore:.*does not have many workers")
def test_a_run_of_three_steps_leaves_its_hyperparameters_and_its_last_step(tmp_path: Path) -> None:
    """pytorch-lightning leaves a page without a curve and no rows."""
    loggers = [TensorBoardLogger(tmp_path / "tensorboard"), CSVLogger(tmp_path / "csv")]
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, logger=loggers, default_root_dir=tmp_path)
    trainer.fit(Model(), rows(3))
    for logger in loggers:
        assert yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text()) == {"width": 4}
    events = EventAccumulator(loggers[0].log_dir).Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [2]
    header, row = Path(loggers[1].log_dir, "metrics.csv").read_text().splitlines()
    assert header == "epoch,step,train_loss"
    assert row.startswith("0,2,")

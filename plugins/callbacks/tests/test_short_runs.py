"""A fit of fewer steps than ``log_every_n_steps`` leaves its last step with every logger."""

import pytest
import torch

import leyden as pl
from leyden.callbacks import EarlyStopping
from leyden_testing.models import RecordingLogger, rows
from leyden_testing.training import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:An epoch has")


class Model(pl.LightningModule):
    """Logs its batches by step, by epoch and by both; its validation loss grows.

    Args:
        stops: After which batch it asks to stop; None never.
    """

    def __init__(self, stops=None):
        super().__init__()
        self.layer, self.stops = torch.nn.Linear(4, 2), stops

    def training_step(self, batch, batch_idx):
        self.log("step", 0.0, logger=False)
        self.log("batch", float(self.global_step))
        self.log("both", float(self.global_step), on_step=True, on_epoch=True)
        if self.global_step == self.stops:
            self.trainer.should_stop = True
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val", float(self.global_step))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def logged(tmp_path, model=None, train=3, **options):
    """The (step, value) pairs of ``batch``, after a fit."""
    logger = RecordingLogger()
    trainer = quiet_trainer(tmp_path, logger=logger, **{"log_every_n_steps": 50, "max_epochs": 2, **options})
    trainer.fit(model or Model(), rows(train), rows(1))
    assert [(step, row["val"], row["epoch"]) for step, row in logger.logged if "val" in row]
    assert all(row["both_step"] == row["batch"] for _, row in logger.logged if "batch" in row)
    return [(step, row["batch"], row["epoch"]) for step, row in logger.logged if "batch" in row]


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({}, (5, 5.0, 1)),
        ({"max_steps": 4}, (3, 3.0, 1)),
        ({"accumulate_grad_batches": 2}, (3, 3.0, 1)),
        ({"val_check_interval": 1}, (5, 5.0, 1)),
        ({"callbacks": [EarlyStopping("val", patience=0, mode="min")], "max_epochs": 9}, (5, 5.0, 1)),
        (
            {"callbacks": [EarlyStopping("val", patience=0, check_on_train_epoch_end=True)], "max_epochs": 9},
            (5, 5.0, 1),
        ),
        ({"model": Model(stops=1)}, (1, 1.0, 0)),  # the loop itself logs the step at which it is asked to stop
    ],
)
def test_it_has_the_last_step_once(tmp_path, options, last):
    """pytorch-lightning logs no step at all, unless it is asked to stop within one."""
    assert logged(tmp_path, **options) == [last]


def test_a_longer_fit_has_no_more_than_its_steps(tmp_path):
    assert logged(tmp_path, log_every_n_steps=4) == [(3, 3.0, 1)]

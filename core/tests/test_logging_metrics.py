"""``self.log`` in evaluation."""

import pytest

from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.models import LoggingModel, ValidatedModel, logged_fit, model_that, rows
from leyden_testing.training import quiet_trainer

# -- evaluation ---------------------------------------------------------------------------------------------


class Silent(LoggingModel):
    def training_step(self, batch, batch_idx):
        return self.loss(batch)


class TwoLoaders(Silent):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("value", batch_idx + 10.0 * dataloader_idx)
        self.log(f"own_{dataloader_idx}", 1.0, add_dataloader_idx=False)

    def on_validation_epoch_end(self):
        self.log("overall", 5.0)

    test_step = validation_step


def test_names_of_several_loaders(tmp_path):
    logger, trainer = logged_fit(tmp_path, TwoLoaders(), 1, [rows(2), rows(3)])
    expected = {
        "value/dataloader_idx_0": 0.5, "value/dataloader_idx_1": 11.0, "own_0": 1.0, "own_1": 1.0, "overall": 5.0,
    }  # fmt: skip
    assert logger.logged == [(0, {**expected, "epoch": 0})]
    assert {name: value.item() for name, value in trainer.callback_metrics.items()} == expected


def test_results_of_several_loaders_are_returned_one_by_one(tmp_path):
    results = quiet_trainer(tmp_path).test(TwoLoaders(), [rows(2), rows(3)], verbose=False)
    assert results == [
        {"value/dataloader_idx_0": 0.5, "own_0": 1.0},
        {"value/dataloader_idx_1": 11.0, "own_1": 1.0},
    ]


def test_the_users_own_dataloader_idx_is_refused(tmp_path):
    model = model_that(test_step=lambda self, batch, batch_idx: self.log("x/dataloader_idx_0", 1.0))
    with pytest.raises(MisconfigurationException, match="dataloader_idx"):
        quiet_trainer(tmp_path).test(model, rows(1))


def test_evaluation_steps_are_logged_under_the_number_of_their_batch(tmp_path):
    class Model(Silent):
        def validation_step(self, batch, batch_idx):
            self.log("value", float(batch_idx), on_step=True, on_epoch=True)

    logger, trainer = logged_fit(tmp_path, Model(), 2, rows(3), max_epochs=2)
    assert logger.values("value_step") == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 0.0), (4, 1.0), (5, 2.0)]
    assert logger.values("value_epoch") == [(1, 1.0), (3, 1.0)]
    assert trainer.callback_metrics.keys() == {"value", "value_epoch"}


def test_validation_does_not_disturb_the_running_training_epoch(tmp_path):
    class Model(ValidatedModel):
        def training_step(self, batch, batch_idx):
            self.log("mean", float(batch_idx), on_step=False, on_epoch=True)
            return self.loss(batch)

        def on_validation_end(self):
            self.values = dict(self.trainer.callback_metrics)

    model = Model()
    logger, _ = logged_fit(tmp_path, model, 4, rows(1), val_check_interval=1)
    assert logger.values("mean") == [(3, 1.5)]
    assert "val_loss" in model.values

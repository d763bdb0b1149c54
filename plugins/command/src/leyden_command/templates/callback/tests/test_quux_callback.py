"""The conformance kit's checks of the callback Quux, and tests of when it stops a fit."""

import leyden as pl
import pytest
import torch
from leyden_testing import CallbackConformance
from leyden_testing.training import quiet_trainer

from leyden_quux.callback import Quux


class TestQuux(CallbackConformance):
    @pytest.fixture
    def name(self):
        return "Quux"


class Diverging(pl.LightningModule):
    """A model whose loss is NaN from batch number ``batch`` on."""

    def __init__(self, batch):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.batch = batch

    def training_step(self, x, batch_idx):
        loss = self.layer(x).mean()
        return loss * float("nan") if batch_idx >= self.batch else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(("patience", "batches"), [(1, 4), (2, 5)])
def test_a_fit_stops_when_the_loss_is_nan(tmp_path, patience, batches):
    callback = Quux(patience=patience, every_n_batches=1)
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[callback])
    with pytest.warns(UserWarning, match="Training stops: the loss is nan"):
        trainer.fit(Diverging(batch=3), torch.utils.data.DataLoader(torch.ones(20, 2), batch_size=1))
    assert trainer.global_step == batches


@pytest.mark.parametrize("argument", ["patience", "every_n_batches"])
def test_numbers_below_one_are_refused(argument):
    with pytest.raises(ValueError, match=f"{argument}=0 must be at least 1"):
        Quux(**{argument: 0})

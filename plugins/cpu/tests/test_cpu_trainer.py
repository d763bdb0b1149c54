"""The CPU accelerator in a Trainer."""

import pytest
import torch

import leyden as pl
from leyden.accelerators import CPUAccelerator
from leyden.utilities import MisconfigurationException
from leyden_testing.training import quiet_trainer


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.devices = set()

    def training_step(self, batch, batch_idx):
        self.devices |= {str(self.device), str(batch.device)}
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.parametrize("accelerator", ["cpu", "CPUAccelerator", CPUAccelerator, CPUAccelerator()])
@pytest.mark.parametrize("devices", [1, "auto"])
def test_it_trains(tmp_path, accelerator, devices):
    model = Model()
    trainer = quiet_trainer(tmp_path, accelerator=accelerator, devices=devices, max_steps=2)
    trainer.fit(model, torch.utils.data.DataLoader(torch.ones(4, 4), 2))
    assert type(trainer.accelerator) is CPUAccelerator
    assert (model.devices, trainer.global_step) == ({"cpu"}, 2)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has a faster device")
def test_it_is_chosen_where_there_is_nothing_faster(tmp_path):
    assert type(quiet_trainer(tmp_path, accelerator="auto").accelerator) is CPUAccelerator


@pytest.mark.parametrize("devices", [-1, [0], 0])
def test_devices_that_make_no_sense_are_refused(tmp_path, devices):
    with pytest.raises(MisconfigurationException, match="a device is a process"):
        quiet_trainer(tmp_path, devices=devices)

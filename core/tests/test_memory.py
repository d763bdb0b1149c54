"""Nothing of a batch is kept for the next one: neither the batch, nor what its step computed and returned."""

import gc
import weakref

import pytest
import torch
from torch.optim import LBFGS

from leyden_testing.models import LoggingModel, RecordingLogger, rows
from leyden_testing.training import quiet_trainer


class Model(LoggingModel):
    """Remembers, without keeping them, tensors of each step, and which are alive when another batch is on its way."""

    def __init__(self, manual=False):
        super().__init__()
        self.automatic_optimization = not manual
        self.seen, self.alive, self.looked = [], [], set()

    def look(self, where):
        self.looked.add(where)
        self.alive += [(where, name) for name, seen in self.seen if seen() is not None]

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.look(f"transfer, {self.trainer.state.stage}")
        return [part.clone() for part in batch]

    def step(self, batch, stage):
        self.look(f"{stage}_step")
        hidden, extra = self(batch[0]), torch.ones(1)
        loss = (hidden - batch[1]).square().mean()
        self.log(f"{stage}_loss", loss, on_step=True, on_epoch=True)
        parts = {"batch": batch[0], "hidden": hidden, "extra": extra}
        self.seen += [(name, weakref.ref(part)) for name, part in parts.items()]
        return {"loss": loss, "hidden": hidden, "extra": extra}

    def training_step(self, batch, batch_idx):
        outputs = self.step(batch, "train")
        if not self.automatic_optimization:
            self.optimizers().zero_grad()
            self.manual_backward(outputs["loss"])
            self.optimizers().step()
        return outputs

    def validation_step(self, batch, batch_idx):
        return self.step(batch, "val")

    def test_step(self, batch, batch_idx):
        return self.step(batch, "test")

    def predict_step(self, batch, batch_idx):
        self.look("predict_step")
        hidden = self(batch[0])
        self.seen += [("batch", weakref.ref(batch[0])), ("hidden", weakref.ref(hidden))]
        return hidden


class OwnStep(Model):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        optimizer.step(closure=optimizer_closure)


class Curved(OwnStep):
    def configure_optimizers(self):
        return LBFGS(self.parameters(), max_iter=1)


@pytest.fixture(autouse=True)
def _no_garbage_collection():
    """What only a collection would free is kept for too long."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (Model, {}),
        (Model, {"accumulate_grad_batches": 2, "logger": True}),
        (lambda: Model(manual=True), {}),
        (OwnStep, {}),
        (Curved, {}),
    ],
)
def test_in_a_fit_and_the_validation_within(tmp_path, model, options):
    module = model()
    options = {**options, "logger": RecordingLogger()} if options else options
    trainer = quiet_trainer(tmp_path, num_sanity_val_steps=2, val_check_interval=2, log_every_n_steps=1, **options)
    trainer.fit(module, rows(4), rows(2))
    expected = {"transfer, train", "transfer, validate", "transfer, sanity_check", "train_step", "val_step"}
    assert (module.alive, module.looked) == ([], expected)


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_in_an_evaluation(tmp_path, stage):
    module, options = Model(), {"return_predictions": False} if stage == "predict" else {"verbose": False}
    getattr(quiet_trainer(tmp_path), stage)(module, rows(3), **options)
    assert module.looked == {f"transfer, {stage}", f"{'val' if stage == 'validate' else stage}_step"}
    assert module.alive == []


@pytest.mark.parametrize("run", ["fit", "validate", "test", "predict"])
def test_the_batch_before_is_freed_on_the_host_too(tmp_path, run):
    before, alive = [], []

    class Looks(LoggingModel):
        def look(self, batch):
            alive.extend(seen() is not None for seen in before)
            before[:] = [weakref.ref(batch)]

        def training_step(self, batch, batch_idx):
            self.look(batch)
            return self.layer.weight.sum()

        def validation_step(self, batch, batch_idx):
            self.look(batch)

        test_step = predict_step = validation_step

    options = {"validate": {"verbose": False}, "test": {"verbose": False}, "predict": {"return_predictions": False}}
    loader = torch.utils.data.DataLoader(torch.rand(6, 2), batch_size=1)
    options["fit"] = {"val_dataloaders": loader}
    trainer = quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0 if run == "fit" else 1.0)
    getattr(trainer, run)(Looks(), loader, **options[run])
    assert alive == [False] * 5

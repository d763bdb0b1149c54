"""Checkpoints: a resumed run equals the uninterrupted one, and the scaler's state is stored as in Lightning."""

from __future__ import annotations

import pytest
import torch
from torch.amp import GradScaler

import leyden as pl
from leyden.plugins import MixedPrecision

NAMES = ["32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"]


def bits(model):
    return [t.detach().cpu() for t in model.state_dict().values()]


class Losses(pl.Callback):
    """Keeps every loss, saves a checkpoint after a given batch, and with ``stop`` ends the run there."""

    def __init__(self, save_after, path, stop=False):
        self.save_after, self.path, self.stop, self.losses = save_after, path, stop, {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses[trainer.progress.total_batches] = outputs["loss"].item()
        if trainer.progress.total_batches == self.save_after and self.path is not None:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = self.stop


@pytest.mark.parametrize(("save_after", "every"), [(6, 1), (9, 1), (9, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_resume_is_exact(device, trainer, Model, loader, tmp_path, name, save_after, every):
    def run(path, stop=False, ckpt_path=None):
        torch.manual_seed(3)
        model, losses = Model(), Losses(save_after, path, stop)
        made = trainer(device, precision=name, callbacks=losses, max_epochs=3, accumulate_grad_batches=every)
        made.fit(model, loader, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
        return made, model, losses.losses

    made, model, losses = run(None)
    run(tmp_path / "it.ckpt", stop=True)
    resumed, again, rest = run(None, ckpt_path=tmp_path / "it.ckpt")
    assert rest == {batch: loss for batch, loss in losses.items() if batch > save_after}
    assert len(rest) == 18 - save_after
    for a, b in zip(bits(model), bits(again), strict=True):
        assert a.dtype is b.dtype
        assert torch.equal(a, b)
    if name == "16-mixed":
        assert resumed.scaler.state_dict() == made.scaler.state_dict()
        assert resumed.precision_plugin.skipped_steps == made.precision_plugin.skipped_steps > 0


def test_saving_changes_nothing(trainer, Model, loader, tmp_path):
    found = []
    for path in (None, tmp_path / "it.ckpt"):
        torch.manual_seed(3)
        model = Model()
        made = trainer(precision="16-mixed", callbacks=Losses(7, path))
        made.fit(model, loader)
        found.append((bits(model), made.scaler.state_dict()))
    assert found[0][1] == found[1][1]
    assert all(map(torch.equal, found[0][0], found[1][0]))


def test_weights_of_64_bits_come_back_as_they_were_saved(trainer, Model, loader, tmp_path):
    model, made = Model(), trainer(precision="64-true", max_epochs=1)
    made.fit(model, loader)
    made.save_checkpoint(tmp_path / "it.ckpt")
    fresh = Model()
    trainer(precision="64-true").predict(fresh, loader, ckpt_path=tmp_path / "it.ckpt")
    assert any(not torch.equal(t, t.float().double()) for t in bits(model) if t.is_floating_point())
    assert all(map(torch.equal, bits(model), bits(fresh)))


def test_a_layer_that_on_load_checkpoint_adds_is_cast_too(trainer, Model, loader, tmp_path):
    class Growing(Model):
        def __init__(self):
            super().__init__()
            self.extra = None

        def grow(self):
            self.extra = torch.nn.Linear(2, 2)

        def on_load_checkpoint(self, checkpoint):
            self.grow()

        def forward(self, x):
            return self.extra(self.layers(x))

    model, made = Growing(), trainer(precision="64-true", max_epochs=1)
    model.grow()
    made.fit(model, loader)
    made.save_checkpoint(tmp_path / "it.ckpt")
    fresh = Growing()
    trainer(precision="64-true").fit(fresh, loader, ckpt_path=tmp_path / "it.ckpt")
    assert fresh.extra.weight.dtype is torch.float64


def scaled(library, lightning):
    kind = MixedPrecision if library is pl else lightning.plugins.MixedPrecision
    return kind("16-mixed", "cpu", GradScaler("cpu", init_scale=2.0**20, growth_interval=4))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("begins", ["leyden", "lightning"])
def test_a_run_goes_on_in_either(trainer, model_class, loader, lightning, tmp_path, begins):
    def model(library):
        made = model_class(library)()
        made.layers[3] = torch.nn.Identity()  # only Leyden restores the random states of dropout
        return made

    libraries = {"leyden": pl, "lightning": lightning}
    found = {}
    for ends, library in libraries.items():
        first = libraries[begins]
        made = trainer(library=first, plugins=scaled(first, lightning), max_epochs=1)
        made.fit(model(first), loader)
        path = tmp_path / f"{ends}.ckpt"
        made.save_checkpoint(path)
        resumed = trainer(library=library, plugins=scaled(library, lightning), max_epochs=3)
        resumed.fit(trained := model(library), loader, ckpt_path=path)
        weights = [tensor.tolist() for tensor in trained.state_dict().values()]
        found[ends] = (resumed.current_epoch, made.scaler.state_dict(), resumed.scaler.state_dict(), weights)
    assert found["leyden"] == found["lightning"]
    assert found["leyden"][0] == 3
    assert found["leyden"][1]["scale"] < 2.0**20  # the scale has changed, so its state matters

"""Checkpoints of several processes: one file, exact resume of every rank, and other numbers of processes."""

import warnings

import pytest
import torch
from torch import nn

from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden_testing.reporting import Model, Validated, alone, loader, quiet
from leyden_testing.training import same_weights

pytestmark = pytest.mark.filterwarnings(
    "ignore:The checkpoint holds the state of callbacks", "ignore:Checkpoint directory .* is not empty"
)
EVERY = {"enable_checkpointing": True, "max_epochs": 3}


class Noisy(Validated):
    """Dropout, and noise that differs from rank to rank."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.4), nn.Linear(8, 2))
        self.drawn = []

    def on_train_start(self):
        if self.current_epoch == 0 and self.global_step == 0:
            torch.manual_seed(self.global_rank)

    def training_step(self, batch, batch_idx):
        self.drawn.append(torch.rand(()).item())
        self.report = {"drawn": self.drawn}
        return super().training_step(batch, batch_idx)


def saving(tmp_path, **options):
    return ModelCheckpoint(tmp_path / "kept", filename="{step}", every_n_train_steps=1, save_top_k=-1, **options)


@pytest.mark.parametrize("step", [1, 2, 3, 5])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_resumed_run_is_the_same_on_every_rank(tmp_path, step, accumulate):
    whole = Noisy()
    options = {**EVERY, "accumulate_grad_batches": accumulate, "max_epochs": 3 * accumulate}
    trainer, reporter = quiet(tmp_path, callbacks=[saving(tmp_path)], **options)
    trainer.fit(whole, loader(12, shuffle=True), loader(5))
    uninterrupted = reporter.reports()

    resumed = Noisy()
    path = tmp_path / "kept" / f"step={step}.ckpt"
    again, other = quiet(tmp_path / "again", **options)
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.zero_()
    again.fit(resumed, loader(12, shuffle=True), loader(5), ckpt_path=path)
    assert same_weights(whole, resumed)
    for before, after in zip(uninterrupted, other.reports(), strict=True):
        assert before["drawn"][-len(after["drawn"]) :] == after["drawn"]
        assert before["seen"]["train"][-len(after["seen"]["train"]) :] == after["seen"]["train"]
        assert before["metrics"] == after["metrics"]
    assert uninterrupted[0]["drawn"] != uninterrupted[1]["drawn"]


def test_a_checkpoint_is_one_file_that_plain_pytorch_loads(tmp_path):
    trainer, _ = quiet(tmp_path, callbacks=[saving(tmp_path)], **EVERY)
    model = Validated()
    trainer.fit(model, loader(8), loader(4))
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [f"step={n}.ckpt" for n in range(1, 7)]
    state = torch.load(tmp_path / "kept" / "step=6.ckpt", weights_only=True)
    assert set(state["state_dict"]) == set(model.state_dict())
    assert all(torch.equal(state["state_dict"][name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 2), (2, 3)])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, first, second):
    trainer, _ = quiet(
        tmp_path, devices=first, strategy="ddp_fork" if first > 1 else "auto", callbacks=[saving(tmp_path)],
        enable_checkpointing=True, max_epochs=1,
    )  # fmt: skip
    trainer.fit(Validated(), loader(24), loader(6))
    half = trainer.global_step // 2
    resumed, reporter = quiet(
        tmp_path / "again", devices=second, strategy="ddp_fork" if second > 1 else "auto", max_epochs=1
    )
    model = Validated()
    resumed.fit(model, loader(24), loader(6), ckpt_path=tmp_path / "kept" / f"step={half}.ckpt")
    seen = sorted(row for report in reporter.reports() for batch in report["seen"]["train"] for row in batch)
    assert seen == list(range(12, 24))  # the second half of the epoch, no sample twice and none left out
    assert resumed.current_epoch == 1


def test_lightning_loads_what_several_processes_saved_and_the_reverse(tmp_path):
    import pytorch_lightning as lightning

    callback = ModelCheckpoint(tmp_path / "kept")
    quiet(tmp_path, callbacks=[callback], enable_checkpointing=True)[0].fit(Model(), loader(8, shuffle=True))

    class Theirs(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = Model().layer

        def training_step(self, batch, batch_idx):
            return nn.functional.mse_loss(self.layer(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def peer(epochs):
        return lightning.Trainer(
            accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=epochs, logger=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path / "theirs",
        )  # fmt: skip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Theirs()
        peer(2).fit(theirs, loader(8, shuffle=True), ckpt_path=callback.best_model_path)
        path = next((tmp_path / "theirs").rglob("*.ckpt"))
    ours = Model()
    again, _ = quiet(tmp_path / "ours", max_epochs=2)
    again.fit(ours, loader(8, shuffle=True), ckpt_path=callback.best_model_path)
    assert same_weights(ours.layer, theirs.layer)
    third, _ = quiet(tmp_path / "third", max_epochs=3)
    third.fit(ours, loader(8, shuffle=True), ckpt_path=path)
    assert third.global_step == 6


def test_ckpt_path_best_and_last_after_a_run_elsewhere(tmp_path):
    callback = ModelCheckpoint(tmp_path / "kept", monitor="val_loss", save_last=True)
    trainer, _ = quiet(tmp_path, callbacks=[callback], **EVERY)
    model = Validated()
    trainer.fit(model, loader(8), loader(4))
    assert float(callback.best_model_score) <= float(trainer.callback_metrics["val_loss"])
    results = trainer.test(model, loader(4), ckpt_path="best", verbose=False)
    expected = alone(tmp_path / "alone").test(model, loader(4), verbose=False)
    assert results[0]["test_loss"] == pytest.approx(expected[0]["test_loss"])
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, loader(8), loader(4), ckpt_path="last")
    assert trainer.global_step == 8


def test_saving_in_the_parent_keeps_the_weights_and_says_what_is_missing(tmp_path):
    model = Model()
    trainer, _ = quiet(tmp_path)
    trainer.fit(model, loader(8))
    with pytest.warns(UserWarning, match="fit ran in other processes .*: the checkpoint has the weights alone"):
        trainer.save_checkpoint(tmp_path / "by_hand.ckpt")
    again = Model.load_from_checkpoint(tmp_path / "by_hand.ckpt")
    assert same_weights(again, model)


def test_a_callback_that_was_used_in_other_processes_starts_anew(tmp_path):
    """It comes back with the state of the fit there, and goes to the next fit's processes as it was at first."""

    class Scored(Model):
        def __init__(self, score):
            super().__init__()
            self.score = score

        def on_train_epoch_end(self):
            self.log("score", self.score)

    stopping = EarlyStopping("score", patience=1)
    for score in (1.0, 2.0):
        options = {"callbacks": [stopping], "max_epochs": 4, "strategy": "ddp_fork"}
        trainer, _ = quiet(tmp_path, **options)
        trainer.fit(Scored(score), loader(4))
        assert (trainer.current_epoch, stopping.best_score) == (2, score)

"""Checkpoints that DeepSpeed's engine writes: exact resume, whole weights from them, and what is refused."""

import importlib.util
import os
import warnings

import pytest
import torch

from leyden.callbacks import ModelCheckpoint
from leyden.utilities.exceptions import MisconfigurationException
from leyden_deepspeed import consolidate
from leyden_testing.training import loader, same_weights

from .deepspeed_model import BuiltLater, Model, quiet, together

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed; make test-deepspeed"
    ),
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # DeepSpeed calls what PyTorch has renamed
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The checkpoint holds the state of callbacks"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty"),
]
CASES = {
    "0": ({"zero_optimization": False}, "32-true"),
    "1": ({"stage": 1}, "32-true"),
    "2": ({"stage": 2}, "bf16-mixed"),
    "2 offload": ({"stage": 2, "offload_optimizer": True}, "32-true"),
    "3": ({"stage": 3}, "bf16-mixed"),
    "3 offload": ({"stage": 3, "offload_optimizer": True, "offload_parameters": True}, "32-true"),
}


@pytest.fixture(scope="module", autouse=True)
def _imported():
    before = os.environ.get("DS_ACCELERATOR")
    os.environ["DS_ACCELERATOR"] = "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed  # noqa: F401
    yield
    if before is None:
        del os.environ["DS_ACCELERATOR"]


def scheduled(parameters):
    optimizer = torch.optim.AdamW(parameters, lr=0.05)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Noisy(Model):
    """Dropout, another in every process, and a scheduler."""

    def __init__(self):
        super().__init__(scheduled, dropout=0.3)

    def on_train_start(self):
        if self.global_step == 0:
            torch.manual_seed(self.trainer.global_rank)


def saving(tmp_path, **options):
    return ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1, **options)


def zeroed(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_same(tmp_path, case):
    strategy, precision = CASES[case]
    options = {"precision": precision, "accumulate_grad_batches": 2, "gradient_clip_val": 0.5, "max_epochs": 3}
    whole, kept = Noisy(), tmp_path / "kept"
    trainer = together(tmp_path, strategy, callbacks=[saving(kept)], enable_checkpointing=True, **options)
    trainer.fit(whole, loader(12, shuffle=True), loader(6))
    assert sorted(path.name for path in kept.iterdir()) == [f"step={n}.ckpt" for n in range(1, 7)]

    resumed = zeroed(Noisy())
    again = together(tmp_path / "again", strategy, **options)
    again.fit(resumed, loader(12, shuffle=True), loader(6), ckpt_path=kept / "step=3.ckpt")
    assert same_weights(whole, resumed)
    assert (again.global_step, again.current_epoch) == (trainer.global_step, trainer.current_epoch) == (6, 3)
    assert again.callback_metrics["train_loss"] == trainer.callback_metrics["train_loss"]

    evaluated = zeroed(Noisy())
    results = together(tmp_path, strategy).test(evaluated, loader(6), ckpt_path=kept / "step=6.ckpt", verbose=False)
    assert same_weights(whole, evaluated)
    alone = quiet(tmp_path, devices=1).test(whole, loader(6, 6), verbose=False)
    assert results[0]["test_loss"] == pytest.approx(alone[0]["test_loss"], rel=1e-5)

    assert consolidate.main([str(kept / "step=6.ckpt"), str(tmp_path / "whole.ckpt")]) == 0
    saved = torch.load(tmp_path / "whole.ckpt", weights_only=True)
    assert saved["global_step"] == 6
    loaded = zeroed(Noisy())
    loaded.load_state_dict(saved["state_dict"])
    assert same_weights(whole, loaded)
    assert all(value.dtype == torch.float32 for value in saved["state_dict"].values())


class SavingAtTheEnd(Model):
    """Saves as training ends, and once the run is over."""

    def on_train_end(self):
        self.trainer.save_checkpoint(self.trainer.default_root_dir + "/weights.ckpt", weights_only=True)

    def teardown(self, stage):
        if stage == "fit":
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/after.ckpt")
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/after-weights.ckpt", weights_only=True)


@pytest.mark.parametrize("stage", [2, 3])
def test_weights_alone_are_one_file_and_saving_works_after_the_run(tmp_path, stage):
    model = SavingAtTheEnd()
    together(tmp_path, {"stage": stage}, max_epochs=1, precision="bf16-mixed").fit(model, loader(8), loader(6))
    for name in ("weights.ckpt", "after-weights.ckpt"):
        saved = torch.load(tmp_path / name, weights_only=True)
        loaded = zeroed(Model())
        loaded.load_state_dict(saved["state_dict"])
        assert same_weights(model, loaded)
    resumed = zeroed(Model())
    trainer = together(tmp_path / "again", {"stage": stage}, max_epochs=2, precision="bf16-mixed")
    trainer.fit(resumed, loader(8), loader(6), ckpt_path=tmp_path / "after.ckpt")
    expected = Model()
    together(tmp_path, {"stage": stage}, max_epochs=2, precision="bf16-mixed").fit(expected, loader(8), loader(6))
    assert trainer.global_step == 4
    assert same_weights(resumed, expected)


def test_a_file_of_weights_is_divided_as_it_is_loaded(tmp_path):
    model = Model()
    quiet(tmp_path, devices=1, max_epochs=1).fit(model, loader(8), loader(6))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.ckpt")
    built = BuiltLater()
    together(tmp_path, {"stage": 3}).test(built, loader(6), ckpt_path=tmp_path / "weights.ckpt", verbose=False)
    assert same_weights(model, built)


def test_an_overwritten_checkpoint_is_whole(tmp_path):
    callback = ModelCheckpoint(tmp_path / "kept", save_last=True, save_top_k=0, every_n_train_steps=1)
    options = {"callbacks": [callback], "enable_checkpointing": True, "max_epochs": 1}
    model = Model()
    together(tmp_path, {"stage": 2}, **options).fit(model, loader(8), loader(6))
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["last.ckpt"]
    consolidate.consolidate(str(tmp_path / "kept" / "last.ckpt"), str(tmp_path / "whole.ckpt"))
    saved = torch.load(tmp_path / "whole.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    with pytest.raises(FileExistsError, match="something at"):
        consolidate.consolidate(str(tmp_path / "kept" / "last.ckpt"), str(tmp_path / "whole.ckpt"))


def test_other_processes_stages_and_strategies_can_not_go_on(tmp_path):
    options = {"callbacks": [saving(tmp_path / "kept")], "enable_checkpointing": True, "max_epochs": 1}
    together(tmp_path, {"stage": 2}, **options).fit(Model(), loader(4), loader(6))
    path = tmp_path / "kept" / "step=1.ckpt"
    with pytest.raises(MisconfigurationException, match=r"by 2 processes in stage 2, and this run has 2 in stage 3"):
        together(tmp_path, {"stage": 3}).fit(Model(), loader(4), loader(6), ckpt_path=path)
    quiet(tmp_path, devices=1, **{**options, "callbacks": [saving(tmp_path / "file")]}).fit(
        Model(), loader(4), loader(6)
    )
    with pytest.raises(MisconfigurationException, match="can't load its optimizer's state"):
        together(tmp_path, {"stage": 2}).fit(Model(), loader(4), loader(6), ckpt_path=tmp_path / "file" / "step=1.ckpt")


def test_a_checkpoint_within_an_accumulation_says_what_it_lacks(tmp_path):
    class Hasty(Model):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if batch_idx == 0:
                self.trainer.save_checkpoint(self.trainer.default_root_dir + "/hasty.ckpt")

    with pytest.raises(UserWarning, match="does not save accumulated gradients"):
        together(tmp_path, {"stage": 2}, accumulate_grad_batches=2).fit(Hasty(), loader(8), loader(6))

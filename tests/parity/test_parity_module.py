"""The module by itself and what a Trainer is before and after a run: exports, freezing, devices, flags, seeds."""

import os
import warnings
from importlib import import_module

import pytest
import torch
from torch import nn

from leyden_testing.models import rows

from .parity_harness import parity


def exportable(lab):
    class Model(lab.Model):
        def forward(self, x):
            return torch.relu(self.layer(x))

    return lab.model(Model)


@parity
@pytest.mark.parametrize("method", ["script", "trace"])
def test_to_torchscript(pl, lab, method):
    model, example = exportable(lab), torch.arange(8.0).reshape(2, 4)
    model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, that TorchScript is deprecated
        scripted = model.to_torchscript(lab.tmp_path / "model.pt", method=method, example_inputs=example)
        loaded = torch.jit.load(lab.tmp_path / "model.pt")
    lab.note("outputs", [scripted(example), loaded(example), model(example)])
    lab.note("modes", [scripted.training, model.training])


@parity
@pytest.mark.parametrize("method", ["trace", "guess"])
def test_to_torchscript_without_what_it_needs(pl, lab, method):
    with lab.raises("ValueError"):
        exportable(lab).to_torchscript(method=method)


@parity
def test_to_onnx_without_an_input(pl, lab):
    with lab.raises("ValueError"):
        exportable(lab).to_onnx(lab.tmp_path / "model.onnx")


@parity
def test_freeze_and_unfreeze(pl, lab):
    model = lab.model()
    for change in (model.freeze, model.unfreeze):
        change()
        lab.note("after", [model.training, [p.requires_grad for p in model.parameters()]])


@parity
def test_buffers_and_tensors_of_the_model_s_own(pl, lab):
    class Model(lab.Model):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.full((1,), 2.0))
            self.register_buffer("unsaved", torch.ones(1), persistent=False)

        def training_step(self, batch, batch_idx):
            z = torch.ones(2, device=self.device).type_as(self.layer.weight)
            lab.note("step", [str(self.device), str(self.dtype), str(z.to(self.scale).device)])
            self.scale += 1
            return super().training_step(batch, batch_idx) * self.scale.mean()

    model = lab.model(Model)
    lab.trainer().fit(model, rows(2))
    lab.note("kept", [sorted(model.state_dict()), model.scale])


@parity
def test_all_gather_of_a_collection(pl, lab):
    class Model(lab.Model):
        def on_train_start(self):
            gathered = self.all_gather({"a": torch.ones(2), "b": [torch.tensor(3.0), 4.0]})
            lab.note("gathered", gathered)
            lab.note("ranks", [self.global_rank, self.local_rank, self.trainer.world_size, self.trainer.node_rank])

    lab.trainer().fit(lab.model(Model), rows(1))


@parity
def test_module_without_a_trainer(pl, lab):
    model = lab.model()
    lab.note("device", [str(model.device), str(model.dtype), model.example_input_array, model.automatic_optimization])
    for ask in (lambda: model.trainer, model.optimizers, model.lr_schedulers):
        with lab.raises("RuntimeError"):
            ask()


@parity
def test_modules_within_a_module_know_the_trainer(pl, lab):
    class Part(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x):
            lab.note("epoch", [self.current_epoch, self.global_step, self.trainer.training])
            return self.layer(x)

    class Model(lab.Model):
        def __init__(self):
            super().__init__()
            self.part = Part()

        def forward(self, x):
            return self.layer(x) + self.part(x)

    lab.trainer(max_epochs=2).fit(lab.model(Model), rows(2))


SETTINGS = (
    "accumulate_grad_batches barebones check_val_every_n_epoch checkpoint_callback ckpt_path current_epoch datamodule "
    "device_ids early_stopping_callbacks enable_validation evaluating fast_dev_run global_rank global_step "
    "gradient_clip_algorithm gradient_clip_val interrupted is_global_zero is_last_batch lightning_module "
    "limit_predict_batches limit_test_batches limit_train_batches limit_val_batches local_rank log_every_n_steps "
    "lr_scheduler_configs max_epochs max_steps min_epochs min_steps model node_rank num_devices num_nodes "
    "num_predict_batches num_sanity_val_steps num_test_batches num_training_batches num_val_batches optimizers "
    "overfit_batches precision predict_dataloaders predicting progress_bar_callback received_sigterm "
    "reload_dataloaders_every_n_epochs sanity_checking scaler should_stop test_dataloaders testing train_dataloader "
    "training val_check_interval val_dataloaders validating world_size distributed_sampler_kwargs"
)


@parity
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_steps": 5},
        {"overfit_batches": 2},
        {"fast_dev_run": 3},
        {"min_epochs": 2, "gradient_clip_val": 0.5, "accumulate_grad_batches": 4},
        {"precision": "bf16-mixed", "limit_train_batches": 0.25, "val_check_interval": 3},
    ],
    ids=str,
)
def test_settings_of_a_trainer_that_has_not_run(pl, lab, options):
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, **options
    )
    for name in SETTINGS.split():
        lab.note(name, getattr(trainer, name))


@parity
@pytest.mark.parametrize("weights_only", [False, True])
def test_a_checkpoint_by_hand_and_its_keys(pl, lab, weights_only):
    trainer = lab.trainer(max_epochs=1)
    trainer.fit(lab.model(), rows(2))
    trainer.save_checkpoint(lab.tmp_path / "run.ckpt", weights_only=weights_only)
    saved = torch.load(lab.tmp_path / "run.ckpt", weights_only=True)
    lab.note("keys", sorted(set(saved) - {"leyden"}))  # beside Lightning's, what an exact resume needs
    lab.note("where", [saved["epoch"], saved["global_step"], sorted(saved["state_dict"])])


@parity
def test_a_module_built_on_its_device(pl, lab):
    with lab.trainer(precision="64-true").init_module():
        layer = nn.Linear(2, 1)
    lab.note("built", [str(layer.weight.device), str(layer.weight.dtype)])


@parity
def test_seeds_of_the_environment_and_isolation(pl, lab, monkeypatch):
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")  # so that they are taken back
    isolate_rng = import_module(f"{pl.__name__}.utilities.seed").isolate_rng
    pl.seed_everything(3, workers=True)
    with isolate_rng():
        lab.note("within", torch.rand(2))
    lab.note("after", torch.rand(2))
    lab.note("environment", [os.environ["PL_GLOBAL_SEED"], os.environ["PL_SEED_WORKERS"]])


@parity
@pytest.mark.parametrize("deterministic", [True, "warn", False, None])
def test_deterministic(pl, lab, deterministic):
    def state():
        return [torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()]

    class Model(lab.Model):
        def on_train_start(self):
            lab.note("state", state())

    try:
        lab.trainer(deterministic=deterministic).fit(lab.model(Model), rows(1))
    finally:
        torch.use_deterministic_algorithms(False)


@parity
def test_what_the_simple_profiler_counts(pl, lab):
    """Of the user's own actions and of the hooks that a model has."""

    class Model(lab.Model):
        def training_step(self, batch, batch_idx):
            with self.trainer.profiler.profile("mine"):
                return super().training_step(batch, batch_idx)

    trainer = lab.trainer(profiler="simple", max_epochs=2)
    trainer.fit(lab.model(Model), rows(3))
    lab.note("mine", len(trainer.profiler.recorded_durations["mine"]))

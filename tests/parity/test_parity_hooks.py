"""Which hooks run, in what order, with what arguments and at which values of the Trainer's counters."""

import pytest
import torch
from torch import nn

from leyden_testing.models import rows

from .parity_harness import parity
from .parity_hooks import OVERRIDE_POINTS


@parity
def test_fit_with_validation(pl, lab):
    lab.trainer().fit(lab.model(), rows(3), rows(2))


@parity
def test_fit_without_validation(pl, lab):
    lab.trainer().fit(lab.model(), rows(3))


@parity
def test_fit_with_every_override_point_overridden(pl, lab):
    """Overridden with a call of ``super()``, so that what the framework does there is the same."""
    steps = ("training_step", "validation_step", "test_step", "predict_step")
    points = [p for p in OVERRIDE_POINTS if p not in steps and not p.endswith("dataloader")]
    lab.trainer(gradient_clip_val=0.5).fit(lab.model(points=points), rows(3), rows(2))


@parity
@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_alone(pl, lab, stage):
    lab.note("result", getattr(lab.trainer(), stage)(lab.model(), rows(3)))


@parity
def test_one_trainer_for_all_stages_after_one_another(pl, lab):
    trainer, model = lab.trainer(), lab.model()
    trainer.fit(model, rows(3), rows(2))
    lab.note("validate", trainer.validate(model, rows(2)))
    lab.note("test", trainer.test(model, rows(2)))
    lab.note("predict", trainer.predict(model, rows(2)))


@parity
def test_fit_with_a_datamodule(pl, lab):
    trainer, model, data = lab.trainer(), lab.model(), lab.datamodule()
    trainer.fit(model, datamodule=data)
    lab.note("test", trainer.test(model, datamodule=data))
    lab.note("is the datamodule", trainer.datamodule is data)


@parity
def test_loaders_from_the_model_itself(pl, lab):
    class Model(lab.Model):
        def train_dataloader(self):
            return rows(3)

        def val_dataloader(self):
            return rows(2)

        def test_dataloader(self):
            return rows(2)

    trainer, model = lab.trainer(), lab.model(Model)
    trainer.fit(model)
    trainer.test(model)


@parity
def test_transfer_hooks_of_model_and_datamodule(pl, lab):
    """Each is taken from the data module where it overrides it, else from the model."""

    class Data(lab.DataModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] * 2, batch[1]]

    class Model(lab.Model):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] + 1, batch[1]]

    lab.trainer(max_epochs=1).fit(lab.model(Model), datamodule=lab.datamodule(Data))


@parity
def test_accumulation_over_a_remainder(pl, lab):
    lab.differs(r"\d\.\d{6}", "Leyden divides the losses of the last, smaller group by the number of its batches")
    lab.trainer(accumulate_grad_batches=2).fit(lab.model(), rows(5), rows(1))


@parity
def test_fit_twice_with_one_trainer(pl, lab):
    """Without dropout: Lightning starts the loader's iterator of a second fit twice, which draws random numbers."""

    class Model(lab.Model):
        def __init__(self):
            super().__init__()
            self.dropout = nn.Identity()

    trainer, model = lab.trainer(max_epochs=1), lab.model(Model)
    trainer.fit(model, rows(2), rows(1))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, rows(2), rows(1))


@parity
def test_callbacks_run_in_their_order_with_checkpointing_last(pl, lab):
    lab.differs(r"LightningModule.on_train_batch_end", "Leyden saves after the module's hook too")

    class Checkpoint(pl.callbacks.ModelCheckpoint):
        def on_train_batch_end(self, *args):
            lab.note("ran", "checkpoint")
            super().on_train_batch_end(*args)

    class First(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            lab.note("ran", "first")

    class Second(First):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            lab.note("ran", "second")

    trainer = lab.trainer(max_epochs=1, callbacks=[Checkpoint(), Second(), First()], enable_checkpointing=True)
    trainer.fit(lab.model(), rows(2))
    lab.note("callbacks", [type(callback).__name__ for callback in trainer.callbacks])


@parity
def test_configure_callbacks_replaces_those_of_the_same_type(pl, lab):
    early_stopping = pl.callbacks.EarlyStopping

    class Model(lab.Model):
        def configure_callbacks(self):
            return [early_stopping("val_loss", patience=7), pl.callbacks.LambdaCallback()]

    given = [early_stopping("train_loss", patience=1), early_stopping("val_loss", patience=2)]
    trainer = lab.trainer(callbacks=given)
    trainer.fit(lab.model(Model), rows(2), rows(1))
    lab.note("callbacks", [type(callback).__name__ for callback in trainer.callbacks])
    lab.note("patience", [callback.patience for callback in trainer.early_stopping_callbacks])


@parity
def test_modes_are_restored_per_submodule(pl, lab):
    class Model(lab.Model):
        def __init__(self):
            super().__init__()
            self.frozen = nn.BatchNorm1d(2)

        def forward(self, x):
            return self.frozen(super().forward(x))

        def training_step(self, batch, batch_idx):
            lab.note("modes in training", [self.training, self.frozen.training])
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            lab.note("modes in validation", [self.training, self.frozen.training, torch.is_grad_enabled()])
            super().validation_step(batch, batch_idx)

    model = lab.model(Model)
    model.frozen.eval()
    lab.trainer().fit(model, rows(2), rows(1))


@parity
def test_own_eval_and_train_hooks(pl, lab):
    class Model(lab.Model):
        def on_validation_model_eval(self):
            self.dropout.eval()

        def on_validation_model_train(self):
            self.dropout.train()

        def validation_step(self, batch, batch_idx):
            lab.note("modes", [self.training, self.dropout.training])

    lab.trainer().fit(lab.model(Model), rows(2), rows(1))


@parity
def test_train_hooks_that_call_super(pl, lab):
    """The base class's puts the whole model into training mode, whatever its submodules were in."""

    class Model(lab.Model):
        def on_validation_model_train(self):
            super().on_validation_model_train()

        def on_test_model_train(self):
            super().on_test_model_train()

    trainer, model = lab.trainer(), lab.model(Model)
    model.dropout.eval()
    trainer.fit(model, rows(2), rows(1))
    model.dropout.eval()
    trainer.test(model, rows(1))


@parity
@pytest.mark.parametrize("inference_mode", [True, False])
def test_gradients_are_off_in_evaluation(pl, lab, inference_mode):
    class Model(lab.Model):
        def test_step(self, batch, batch_idx):
            lab.note("state", [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), self.training])

        def predict_step(self, batch, batch_idx):
            self.test_step(batch, batch_idx)

    trainer, model = lab.trainer(inference_mode=inference_mode), lab.model(Model)
    trainer.test(model, rows(1))
    trainer.predict(model, rows(1))


@parity
def test_steps_with_fewer_arguments(pl, lab):
    class Model(lab.Model):
        def training_step(self, batch):
            return self.loss(batch)

        def validation_step(self, batch):
            self.log("val_loss", self.loss(batch))

        def predict_step(self, batch):
            return self(batch[0])

    trainer, model = lab.trainer(), lab.model(Model)
    trainer.fit(model, rows(2), rows(1))
    lab.note("predictions", trainer.predict(model, rows(2)))


@parity
def test_predict_step_is_forward_by_default(pl, lab):
    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, batch):
            return self.layer(batch[0])

    lab.note("predictions", lab.trainer().predict(lab.model(Model), rows(2)))


@parity
def test_configure_model_makes_layers_before_the_optimizer(pl, lab):
    class Model(lab.Model):
        def __init__(self):
            super().__init__()
            self.layer = None

        def configure_model(self):
            if self.layer is None:
                self.layer = nn.Linear(4, 2)

    trainer, model = lab.trainer(), lab.model(Model)
    trainer.fit(model, rows(2))
    trainer.test(model, rows(2))


@parity
def test_frozen_and_thawed(pl, lab):
    model = lab.model()
    model.freeze()
    lab.note("frozen", [p.requires_grad for p in model.parameters()] + [model.training])
    model.unfreeze()
    lab.note("thawed", [p.requires_grad for p in model.parameters()] + [model.training])


@parity
def test_outputs_reach_the_batch_end_hooks(pl, lab):
    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            lab.note("train outputs", outputs)
            lab.note("loss needs a gradient", outputs["loss"].requires_grad)

        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            lab.note("validation outputs", outputs)

    class Model(lab.Model):
        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            return {"loss": loss, "double": 2 * loss}

        def validation_step(self, batch, batch_idx):
            return {"any": self.loss(batch)}

    trainer = lab.trainer(callbacks=[Watch()], accumulate_grad_batches=2)
    trainer.fit(lab.model(Model), rows(4), rows(1))


@parity
def test_lambda_callback(pl, lab):
    def say(what):
        return lambda *args: lab.note("lambda", [what, len(args)])

    hooks = ("on_train_batch_end", "on_validation_epoch_end", "on_before_optimizer_step", "on_exception")
    callback = pl.callbacks.LambdaCallback(**{hook: say(hook) for hook in hooks})
    lab.trainer(max_epochs=1, callbacks=[callback]).fit(lab.model(), rows(2), rows(1))


@parity
def test_barebones(pl, lab):
    trainer = pl.Trainer(accelerator="cpu", barebones=True, max_epochs=1, default_root_dir=lab.tmp_path)
    lab.trainers.append(trainer)
    trainer.fit(lab.model(), rows(2), rows(1))
    lab.note("callbacks", [type(callback).__name__ for callback in trainer.callbacks])


@parity
def test_what_the_model_knows_of_its_trainer(pl, lab):
    class Model(lab.Model):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            lab.note("counters", [self.current_epoch, self.global_step, self.global_rank, self.local_rank])
            lab.note("is last", self.trainer.is_last_batch)
            lab.note("device", [str(self.device), str(self.dtype)])
            lab.note("logger", [self.logger is lab.logger, len(self.loggers)])

    model = lab.model(Model)
    lab.note("before", [model.current_epoch, model.global_step, model.global_rank, model.logger])
    lab.trainer().fit(model, rows(3))
    with lab.raises("RuntimeError"):
        _ = lab.model(Model).trainer


@parity
def test_flags_of_the_trainer_in_each_stage(pl, lab):
    class Watch(pl.Callback):
        def note(self, trainer, *args):
            flags = ("training", "validating", "testing", "predicting", "sanity_checking", "evaluating")
            lab.note("flags", [flag for flag in flags if getattr(trainer, flag)])

        on_train_batch_start = on_validation_batch_start = on_test_batch_start = on_predict_batch_start = note
        on_fit_start = on_validation_start = on_validation_end = on_train_epoch_end = on_fit_end = note

    trainer, model = lab.trainer(max_epochs=1, callbacks=[Watch()]), lab.model()
    trainer.fit(model, rows(1), rows(1))
    trainer.validate(model, rows(1))
    trainer.test(model, rows(1))
    trainer.predict(model, rows(1))

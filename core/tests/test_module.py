"""LightningModule: an nn.Module that trains; where it is, what it knows of its run, its own callbacks and hooks."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.optim import SGD

import leyden as pl
from leyden.plugin_system.manager import PluginManager
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.models import Given, LoggingModel, RecordingLogger, ValidatedModel, rows
from leyden_testing.training import quiet_trainer, same_weights, weights


class Regression(pl.LightningModule):
    """The example of the documentation."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.mse_loss(self(x), y)

    def configure_optimizers(self):
        return SGD(self.parameters(), lr=0.1)


# -- it trains ----------------------------------------------------------------------------------------------


def test_it_learns_a_line(tmp_path):
    x = torch.linspace(-1, 1, 20).unsqueeze(1)
    model = Regression()
    quiet_trainer(tmp_path, max_epochs=40).fit(model, Given((x, 3 * x + 1)))
    assert model.layer.weight.item() == pytest.approx(3, abs=0.2)
    assert model.layer.bias.item() == pytest.approx(1, abs=0.05)


def test_it_is_a_module_like_any_other():
    model = Regression()
    assert isinstance(model, nn.Module)
    assert list(model.state_dict()) == ["layer.weight", "layer.bias"]
    assert model(torch.zeros(2, 1)).shape == (2, 1)
    whole = nn.Sequential(model, nn.ReLU())
    assert len(list(whole.parameters())) == 2


STEPS = {
    "batch": lambda self, batch: self.take(batch),
    "batch, batch_idx": lambda self, batch, batch_idx: self.take(batch, batch_idx),
    "renamed": lambda self, x, i: self.take(x, i),
    "any": lambda self, *arguments: self.take(*arguments),
}


@pytest.mark.parametrize("signature", STEPS)
def test_a_training_step_takes_as_much_as_it_wants(tmp_path, signature):
    class Model(LoggingModel):
        training_step = STEPS[signature]

        def take(self, *arguments):
            self.taken = arguments
            return self.layer.weight.sum()

    model = Model()
    quiet_trainer(tmp_path).fit(model, Given("a", "b"))
    assert model.taken == (("b",) if signature == "batch" else ("b", 1))


@pytest.mark.parametrize("missing", ["training_step", "configure_optimizers"])
def test_what_a_fit_needs(tmp_path, missing):
    methods = {name: getattr(Regression, name) for name in ("training_step", "configure_optimizers") if name != missing}
    with pytest.raises(MisconfigurationException, match=f"Partial has no {missing}"):
        quiet_trainer(tmp_path).fit(type("Partial", (pl.LightningModule,), methods)(), rows(1))


def test_forgetting_super_init_is_told(tmp_path):
    class Careless(Regression):
        def __init__(self):
            nn.Module.__init__(self)

    with pytest.raises(MisconfigurationException, match=r"Careless.__init__ must call super\(\)"):
        quiet_trainer(tmp_path).fit(Careless(), rows(1))


def test_parameters_that_are_frozen_stay(tmp_path):
    model = ValidatedModel()
    model.layer.bias.requires_grad_(False)
    before = weights(model)
    quiet_trainer(tmp_path).fit(model, rows(2), rows(1))
    assert torch.equal(model.layer.bias, before["layer.bias"])
    assert not torch.equal(model.layer.weight, before["layer.weight"])


def test_freeze_and_unfreeze():
    model = LoggingModel()
    model.freeze()
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    model.unfreeze()
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_buffers_and_tensors_made_in_a_step(tmp_path):
    class Model(LoggingModel):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(()))

        def training_step(self, batch, batch_idx):
            x, _ = batch
            made = [torch.ones(2, device=self.device), torch.ones(2).to(x), torch.ones(2).type_as(x)]
            assert all(tensor.device == self.device == self.total.device for tensor in made)
            self.total += len(x)
            return self.loss(batch)

    model, trainer = Model(), quiet_trainer(tmp_path)
    trainer.fit(model, rows(3))
    assert model.total == 6
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert Model.load_from_checkpoint(tmp_path / "a.ckpt").total == 6


# -- what it knows ------------------------------------------------------------------------------------------


def test_without_a_trainer():
    model = LoggingModel()
    assert (model.current_epoch, model.global_step, model.global_rank, model.local_rank) == (0, 0, 0, 0)
    assert (model.logger, model.loggers) == (None, ())
    with pytest.raises(RuntimeError, match="LoggingModel is not attached to a Trainer"):
        model.trainer


def test_within_a_run(tmp_path):
    class Model(LoggingModel):
        def __init__(self):
            super().__init__()
            self.seen, self.part = [], LoggingModel()

        def training_step(self, batch, batch_idx):
            self.seen.append((self.current_epoch, self.global_step, batch_idx))
            assert self.part.trainer is self.trainer
            assert self.part.global_step == self.global_step
            return self.loss(batch)

    model, logger = Model(), RecordingLogger()
    trainer = quiet_trainer(tmp_path, max_epochs=2, logger=logger, log_every_n_steps=1)
    trainer.fit(model, rows(2))
    assert model.seen == [(0, 0, 0), (0, 1, 1), (1, 2, 0), (1, 3, 1)]
    assert model.trainer is trainer
    assert (model.logger, model.loggers) == (logger, [logger])
    assert (model.current_epoch, model.global_step) == (2, 4)


def test_device_and_type():
    model = LoggingModel()
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    assert model.to("meta").device == torch.device("meta")
    assert LoggingModel().double().dtype == torch.float64
    empty = pl.LightningModule()
    assert (empty.device, empty.dtype) == (torch.device("cpu"), torch.float32)


def test_example_input_and_strict_loading():
    model = LoggingModel()
    assert model.example_input_array is None
    model.example_input_array = torch.ones(1, 4)
    assert torch.equal(model.example_input_array, torch.ones(1, 4))
    assert model.strict_loading
    model.strict_loading = False
    assert not model.strict_loading


def test_a_setting_may_be_a_property_of_the_model_s_own(tmp_path):
    class Model(LoggingModel):
        @property
        def automatic_optimization(self):
            return False

        @property
        def example_input_array(self):
            return torch.ones(1, 4)

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.layer(self.example_input_array).sum())
            optimizer.step()

    trainer = quiet_trainer(tmp_path)
    trainer.fit(Model(), rows(2))
    assert trainer.global_step == 2


def test_print_goes_around_the_progress_bar(tmp_path, capsys):
    class Bar(pl.Callback):
        role = "progress_bar"

        def print(self, *args, **kwargs):
            print("[bar]", *args, **kwargs)

    class Model(LoggingModel):
        def on_train_start(self):
            self.print("hello", 1, sep="-")

    LoggingModel().print("alone")
    quiet_trainer(tmp_path).fit(Model(), rows(1))
    quiet_trainer(tmp_path, callbacks=[Bar()], enable_progress_bar=None).fit(Model(), rows(1))
    assert capsys.readouterr().out == "alone\nhello-1\n[bar]-hello-1\n"


def test_all_gather_of_one_process_returns_what_it_is_given(tmp_path):
    class Model(LoggingModel):
        def on_train_start(self):
            self.gathered = self.all_gather({"a": torch.ones(2), "b": [torch.zeros(1), 3.0]})

    model = Model()
    quiet_trainer(tmp_path).fit(model, rows(1))
    assert torch.equal(model.gathered["a"], torch.ones(2))
    assert model.gathered["b"][1] == torch.tensor(3.0)


def test_copies_and_pickles_leave_the_trainer_behind(tmp_path):
    model = LoggingModel()
    quiet_trainer(tmp_path).fit(model, rows(1))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same_weights(other, model)
        with pytest.raises(RuntimeError, match="not attached"):
            other.trainer


# -- configure_model and configure_callbacks ----------------------------------------------------------------


def test_configure_model_makes_submodules_before_optimizers(tmp_path):
    class Late(LoggingModel):
        def __init__(self):
            super().__init__()
            self.layer, self.calls = None, 0

        def configure_model(self):
            self.calls += 1
            if self.layer is None:
                self.layer = nn.Linear(4, 2)

    model, trainer = Late(), quiet_trainer(tmp_path)
    trainer.fit(model, rows(1))
    layer = model.layer
    trainer.test(model, rows(1), verbose=False)
    assert model.layer is layer
    assert model.calls == 2
    assert trainer.optimizers[0].param_groups[0]["params"][0] is layer.weight


class First(pl.Callback):
    pass


class Second(pl.Callback):
    pass


class Saver(pl.Callback):
    role = "checkpoint"


def test_the_models_callbacks_replace_those_of_the_same_type_and_checkpoints_come_last(tmp_path):
    given, own = [Saver(), First(), Second()], [First(), Saver()]
    model = LoggingModel()
    model.configure_callbacks = lambda: own
    trainer = quiet_trainer(tmp_path, callbacks=given, enable_checkpointing=None)
    trainer.fit(model, rows(1))
    assert trainer.callbacks == [given[2], own[0], own[1]]
    assert trainer.checkpoint_callback is own[1]


@pytest.mark.parametrize("returned", [lambda c: c, lambda c: [c], lambda c: (c,)], ids=["one", "list", "tuple"])
def test_what_configure_callbacks_may_return(tmp_path, returned):
    class Count(pl.Callback):
        batches = 0

        def on_train_batch_end(self, *args):
            self.batches += 1

    count, model = Count(), LoggingModel()
    model.configure_callbacks = lambda: returned(count)
    quiet_trainer(tmp_path).fit(model, rows(2))
    assert count.batches == 2


# -- skipping an epoch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["model", "callback"])
def test_minus_one_skips_the_rest_of_the_epoch(tmp_path, who):
    trained = []

    class Model(LoggingModel):
        def training_step(self, batch, batch_idx):
            trained.append(batch_idx)
            return self.loss(batch)

    class Skip(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            return -1 if batch_idx == 2 else None

    model = Model()
    if who == "model":
        model.on_train_batch_start = lambda batch, batch_idx: -1 if batch_idx == 2 else None
    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=[Skip()] if who == "callback" else [])
    trainer.fit(model, rows(5))
    assert trained == [0, 1] * 2
    assert (trainer.current_epoch, trainer.global_step) == (2, 4)


# -- init_module ----------------------------------------------------------------------------------------------


def test_init_module_builds_as_ever_and_leaves_parameters_unfilled_if_asked(tmp_path):
    trainer = quiet_trainer(tmp_path)
    torch.manual_seed(3)
    expected = torch.nn.Linear(4, 4)
    torch.manual_seed(3)
    with trainer.init_module():
        built = torch.nn.Linear(4, 4)
    assert torch.equal(built.weight, expected.weight)
    before = torch.get_rng_state()
    with trainer.init_module(empty_init=True):
        empty = torch.nn.Linear(4, 4)
    assert torch.equal(torch.get_rng_state(), before)  # nothing was drawn
    empty.load_state_dict(expected.state_dict())
    assert torch.equal(empty.weight, expected.weight)
    assert torch.nn.Linear(4, 4).weight.device == empty.weight.device


def test_where_a_checkpoint_holds_the_hyperparameters(tmp_path):
    class Model(LoggingModel):
        def __init__(self, width=3):
            super().__init__()
            self.save_hyperparameters()

    class Data(pl.LightningDataModule):
        def __init__(self, size=2):
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self):
            return Given(*rows(self.hparams.size))

    trainer = quiet_trainer(tmp_path)
    trainer.fit(Model(), Data())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    checkpoint = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert checkpoint[Model.CHECKPOINT_HYPER_PARAMS_KEY] == {"width": 3}
    assert checkpoint[Data.CHECKPOINT_HYPER_PARAMS_KEY] == {"size": 2}
    assert checkpoint[Data.CHECKPOINT_HYPER_PARAMS_NAME] == checkpoint[Model.CHECKPOINT_HYPER_PARAMS_NAME] == "kwargs"


def test_before_a_run_a_trainer_has_no_module_and_divides_nothing(tmp_path):
    trainer = quiet_trainer(tmp_path)
    assert trainer.lightning_module is None
    assert trainer.model is None
    assert trainer.distributed_sampler_kwargs is None


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_an_export_without_its_exporter_names_the_distribution(monkeypatch, name):
    monkeypatch.setattr("leyden.module.discover", PluginManager)
    with pytest.raises(ImportError, match=rf"There is no exporter '{name}'; .*pip install leyden-export\.$"):
        getattr(pl.LightningModule(), f"to_{name}")()

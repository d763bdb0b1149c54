"""What set-up returns stands for the user's module, optimizer and loader, and refuses what would go wrong."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import leyden as pl
from leyden.fabric import Fabric, is_wrapped
from leyden.strategies import Strategy

from .fabric_loop import network, rows


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("seen", torch.zeros(()))
        self.kind = "model"

    def forward(self, x, scale=1):
        return scale * self.layer(x)

    def loss(self, x):
        return self(x).square().mean()


class TestModule:
    def test_it_is_what_it_wraps(self, fabric):
        original = Model()
        model = fabric.setup(original)
        assert is_wrapped(model)
        assert not is_wrapped(original)
        assert model.module is original
        assert (model.kind, model.layer, model.device) == ("model", original.layer, torch.device("cpu"))
        assert list(model.state_dict()) == ["seen", "layer.weight", "layer.bias"]
        assert [*model.parameters()] == [*original.parameters()]
        assert torch.equal(model(torch.ones(1, 4), scale=2), 2 * original(torch.ones(1, 4)))
        assert not hasattr(model, "training_step")
        with pytest.raises(AttributeError, match="'Model' object has no attribute 'nothing'"):
            model.nothing

    def test_what_is_set_on_it_is_set_on_the_module(self, fabric):
        model = fabric.setup(Model())
        model.kind, model.more = "other", 1
        assert (model.module.kind, model.module.more, model.more) == ("other", 1, 1)
        model.layer = nn.Linear(4, 3)
        assert model(torch.ones(1, 4)).shape == (1, 3)

    def test_modes_reach_the_module(self, fabric):
        model = fabric.setup(Model())
        assert (model.eval().training, model.module.training) == (False, False)
        assert (model.train().training, model.module.layer.training) == (True, True)

    def test_it_takes_back_a_state(self, fabric):
        model, state = fabric.setup(Model()), Model().state_dict()
        model.load_state_dict(state)
        assert torch.equal(model.module.layer.weight, state["layer.weight"])

    def test_in_one_process_every_method_may_run_the_model(self, fabric):
        assert fabric.setup(Model()).loss(torch.ones(1, 4)).ndim == 0

    def test_a_marked_method_runs_in_the_precision(self):
        class Steps(Model):
            def generate(self, x):
                return self.layer(x)

        model = Fabric(accelerator="cpu", precision="64-true").setup(Steps())
        with pytest.raises(RuntimeError, match="dtype"):
            model.generate(torch.ones(1, 4))
        model.mark_forward_method("generate")
        assert model.generate(torch.ones(1, 4)).dtype == torch.float32

    @pytest.mark.parametrize(
        ("method", "error", "says"),
        [
            (3, TypeError, "give a method"),
            ("forward", ValueError, "already"),
            ("nothing", AttributeError, "Model has no method 'nothing'"),
            ("kind", AttributeError, "Model has no method 'kind'"),
        ],
    )
    def test_what_can_not_be_marked_is_refused(self, fabric, method, error, says):
        with pytest.raises(error, match=says):
            fabric.setup(Model()).mark_forward_method(method)

    def test_a_copy_is_set_up_as_it_is(self, fabric):
        model = fabric.setup(Model())
        model.mark_forward_method("loss")
        twin = copy.deepcopy(model)
        nn.init.zeros_(twin.module.layer.weight)
        assert is_wrapped(twin)
        assert model.module.layer.weight.abs().sum() > 0
        assert twin.loss(torch.ones(1, 4)).item() == pytest.approx(twin.module.layer.bias.square().mean().item())
        average = torch.optim.swa_utils.AveragedModel(model)
        average.update_parameters(model)
        assert torch.equal(average(torch.ones(1, 4)), model(torch.ones(1, 4)))

    def test_it_can_stay_where_it_is(self, fabric):
        model = fabric.setup(Model().to("meta"), move_to_device=False)
        assert model.device.type == "meta"


class TestTwice:
    def test_nothing_is_set_up_twice(self, fabric):
        module = Model()
        model, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.1))
        loader = fabric.setup_dataloaders(DataLoader(rows()))
        for use in (
            lambda: fabric.setup(model),
            lambda: fabric.setup(torch.compile(model, backend="eager")),
            lambda: fabric.setup_module(model),
            lambda: fabric.setup(Model(), optimizer),
            lambda: fabric.setup_optimizers(optimizer),
            lambda: fabric.setup_dataloaders(loader),
        ):
            with pytest.raises(ValueError, match="set up already"):
                use()


class TestOptimizer:
    def ready(self, fabric, **options):
        module = Model()
        return fabric.setup(module, torch.optim.Adam(module.parameters(), lr=0.1, **options))

    def test_it_is_what_it_wraps(self, fabric):
        _, optimizer = self.ready(fabric)
        assert is_wrapped(optimizer)
        assert isinstance(optimizer, torch.optim.Adam)
        assert type(optimizer.optimizer) is torch.optim.Adam
        assert optimizer.param_groups is optimizer.optimizer.param_groups
        assert optimizer.state_dict() == optimizer.optimizer.state_dict()
        assert repr(optimizer).startswith("FabricAdam (")

    def test_it_can_be_copied(self, fabric):
        _, optimizer = self.ready(fabric)
        twin = copy.deepcopy(optimizer)
        twin.param_groups[0]["lr"] = 0.2
        assert isinstance(twin, torch.optim.Adam)
        assert (twin.optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["lr"]) == (0.2, 0.1)

    @pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
    def test_a_copy_with_a_scheduler_steps_itself(self, fabric, way):
        """A scheduler replaces ``step`` by one that steps the wrapper that it was made on."""
        model, optimizer = self.ready(fabric)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        twin = way(optimizer)
        for parameter in twin.param_groups[0]["params"]:
            parameter.grad = torch.ones_like(parameter)
        twin.step()
        assert isinstance(twin, torch.optim.Adam)
        assert len(twin.state) == 2
        assert not optimizer.state or way is copy.copy
        fabric.backward(model(torch.ones(1, 4)).sum())
        optimizer.step()
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)

    def test_none_at_all_is_refused(self, fabric):
        with pytest.raises(ValueError, match="no optimizer"):
            fabric.setup_optimizers()

    def test_one_of_parameters_that_are_nowhere_is_refused(self, fabric):
        with pytest.raises(RuntimeError, match="meta device"):
            fabric.setup_optimizers(torch.optim.SGD(Model().to("meta").parameters(), lr=0.1))

    def test_it_goes_on_with_the_parameters_that_a_strategy_puts_in_place(self):
        class Replacing(Strategy):
            def setup_module(self, module, training=True):
                super().setup_module(module, training)
                module.layer.weight = nn.Parameter(module.layer.weight.detach() + 1)

        module = Model()
        fabric = Fabric(accelerator="cpu", strategy=Replacing())
        model, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.1))
        before = module.layer.weight.detach().clone()
        fabric.backward(model(torch.ones(1, 4)).sum())
        optimizer.step()
        assert not torch.equal(module.layer.weight, before)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.ones(4, 2))


class TestLoader:
    def test_it_is_what_it_wraps(self, fabric):
        loader = fabric.setup_dataloaders(DataLoader(rows(), 8))
        assert is_wrapped(loader)
        assert (len(loader), loader.batch_size, loader.device) == (4, 8, torch.device("cpu"))
        assert next(iter(loader))[2].tolist() == list(range(8))

    def test_several_are_a_list(self, fabric):
        one, other = fabric.setup_dataloaders(DataLoader(rows(), 8), DataLoader(Stream(), 2))
        assert len(one) == 4
        assert len(list(other)) == 2

    def test_batches_are_moved_by_the_strategy_unless_they_shall_not(self):
        class Marking(Strategy):
            def batch_to_device(self, batch):
                return "moved", super().batch_to_device(batch)

        fabric = Fabric(accelerator="cpu", strategy=Marking())
        assert next(iter(fabric.setup_dataloaders(DataLoader(rows(), 8))))[0] == "moved"
        loader = fabric.setup_dataloaders(DataLoader(rows(), 8), move_to_device=False)
        assert loader.device is None
        assert isinstance(next(iter(loader))[0], torch.Tensor)

    def test_its_samplers_are_told_of_each_pass(self, fabric):
        class Sampler(torch.utils.data.SequentialSampler):
            def set_epoch(self, epoch):
                epochs.append(epoch)

        epochs = []
        loader = fabric.setup_dataloaders(DataLoader(range(4), sampler=Sampler(range(4))))
        for _ in range(3):
            list(loader)
        assert sorted(set(epochs)) == [0, 1, 2]

    def test_augmentation_can_depend_on_the_sample_alone(self, fabric, monkeypatch):
        monkeypatch.delenv("PL_SEED_WORKERS", raising=False)

        class Noisy(TensorDataset):
            def __getitem__(self, index):
                return torch.rand(())

        fabric.seed_everything(1, workers="sample", verbose=False)
        loader = fabric.setup_dataloaders(DataLoader(Noisy(torch.ones(3)), 1))
        first = [batch.item() for batch in loader]
        second = [batch.item() for batch in loader]
        assert first != second
        again = fabric.setup_dataloaders(DataLoader(Noisy(torch.ones(3)), 3))
        assert [value.item() for value in next(iter(again))] == first

    def test_plugins_may_put_another_loader_in_its_place(self):
        def leyden_prepare_loader(owner, loader, training):
            seen.append((owner, training))
            return DataLoader(loader.dataset, 4)

        seen, given = [], DataLoader(rows(), 8)
        plugin = SimpleNamespace(leyden_prepare_loader=pl.hookimpl(leyden_prepare_loader))
        fabric = Fabric(accelerator="cpu", devices=1, plugins=[plugin])
        assert fabric.setup_dataloaders(given).batch_size == 4
        assert given.batch_size == 8
        assert seen == [(fabric, True)]

    def test_what_is_no_loader_is_refused(self, fabric):
        with pytest.raises(TypeError, match="given a list"):
            fabric.setup_dataloaders([1, 2])
        with pytest.raises(ValueError, match="no loader"):
            fabric.setup_dataloaders()


class Recording(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = network()
        self.automatic_optimization = False

    def training_step(self, batch):
        optimizer = self.optimizers()
        loss = self.layer(batch).square().mean()
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer, 0.01, "value")
        self.clip_gradients(optimizer)
        self.log("loss", loss)
        self.log("not_for_loggers", 1.0, logger=False)
        self.log("group", {"a": 1.0})
        optimizer.step()
        return loss

    def on_train_epoch_end(self):
        self.ended = True


class TestLightningModule:
    def test_its_own_methods_work(self, tmp_path):
        from leyden.loggers import CSVLogger

        fabric = Fabric(accelerator="cpu", loggers=CSVLogger(tmp_path))
        module = Recording()
        model, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=1.0))
        before = module.layer[0].weight.detach().clone()
        model.training_step(torch.ones(2, 4))
        assert 0 < (module.layer[0].weight - before).abs().max() <= 0.0101
        fabric.logger.finalize("success")
        header = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()[0]
        assert {"loss", "group/a"} <= set(header.split(","))
        assert "not_for_loggers" not in header
        assert module.optimizers() is optimizer
        assert module.lr_schedulers() is None
        assert (module.device, module.global_rank, module.current_epoch, module.logger) == (
            torch.device("cpu"), 0, 0, fabric.logger,
        )  # fmt: skip

    def test_its_hooks_are_called_as_a_callbacks_are(self):
        fabric = Fabric(accelerator="cpu")
        model = fabric.setup(Recording())
        fabric.call("on_train_epoch_end")
        assert model.ended
        assert model.module.logger is None

    def test_what_only_a_trainer_has_is_named(self):
        model = Fabric(accelerator="cpu").setup(Recording())
        with pytest.raises(AttributeError, match=r"self.trainer.max_epochs: .*set up by Fabric"):
            model.module.trainer.max_epochs

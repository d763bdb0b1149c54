"""What a strategy may say about data and results: its part of a loader, its batches of an epoch, its records."""

import pytest
import torch
from torch.utils.data import DataLoader, Subset

from leyden.data.fetch import Fetcher
from leyden.interfaces.strategy import Launcher, Strategy
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.models import Batches, EveryStep, SmallModel
from leyden_testing.training import quiet_trainer


class Halving(Strategy):
    """Takes the first half of each dataset."""

    def __init__(self):
        self.divided = []

    def divide(self, loader, training):
        self.divided.append(training)
        return DataLoader(Subset(loader.dataset, range(len(loader.dataset) // 2)), loader.batch_size)


class Counting(EveryStep):
    def __init__(self):
        super().__init__()
        self.seen = {"train": 0, "val": 0}

    def training_step(self, batch, batch_idx):
        self.seen["train"] += 1
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.seen["val"] += 1
        self.log("val", float(batch_idx), on_epoch=True)


def loader():
    return DataLoader(torch.ones(8, 2), 2)


def test_a_strategy_divides_the_data(tmp_path):
    strategy, model = Halving(), Counting()
    quiet_trainer(tmp_path, strategy=strategy, num_sanity_val_steps=0).fit(model, loader(), loader())
    assert model.seen == {"train": 2, "val": 2}
    assert sorted(strategy.divided) == [False, True]


def test_a_strategy_divides_nothing_where_the_user_does(tmp_path):
    strategy, model = Halving(), Counting()
    trainer = quiet_trainer(tmp_path, strategy=strategy, num_sanity_val_steps=0, use_distributed_sampler=False)
    trainer.fit(model, loader(), loader())
    assert model.seen == {"train": 4, "val": 4}
    assert strategy.divided == []


class Undivided(Strategy):
    @property
    def sampler_arguments(self):
        return {"num_replicas": 2, "rank": 0}


def test_data_that_should_be_divided_and_are_not_are_refused(tmp_path):
    trainer = quiet_trainer(tmp_path, strategy=Undivided())
    with pytest.raises(MisconfigurationException, match=r"Undivided has sampler_arguments, .* and no method divide"):
        trainer.fit(SmallModel(), loader())


class Repeating(Fetcher):
    """Two batches more than the loader has, in which this process only keeps the others company."""

    def total(self):
        return super().total() + 2

    def _next(self):
        if self.fetched >= len(self.loader):
            self.weight = 0.0
            self._iterator = iter(self.loader)
        return super()._next()


class Longer(Strategy):
    def agree_on_epoch(self, fetcher):
        return Repeating(fetcher.loader)


class Logging(SmallModel):
    def training_step(self, batch, batch_idx):
        self.log("number", float(batch_idx), on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


def test_batches_without_weight_train_nothing_and_count_nowhere(tmp_path):
    found = []
    for strategy in ("auto", Longer()):
        torch.manual_seed(0)
        model = Logging()
        trainer = quiet_trainer(tmp_path, strategy=strategy)
        trainer.fit(model, Batches(3))
        found.append((model.layer.weight.detach(), trainer.callback_metrics["number"].item()))
    (own, mean), (longer, same_mean) = found
    assert trainer.global_step == trainer.num_training_batches == 5
    assert torch.equal(own, longer)
    assert mean == same_mean == 1


class Listening(Strategy):
    def __init__(self):
        self.heard = []

    def agree_on_results(self, results):
        self.heard.append(([name for _, name, _ in results.records], results.dataloader_idx))


def test_a_strategy_is_given_the_records_of_each_loader_and_those_of_the_end(tmp_path):
    strategy = Listening()

    class Two(Counting):
        def validation_step(self, batch, batch_idx, dataloader_idx):
            super().validation_step(batch, batch_idx)

    model = Two()
    quiet_trainer(tmp_path, strategy=strategy).validate(model, [Batches(1), Batches(2)], verbose=False)
    assert strategy.heard == [(["val"], 0), (["val", "val"], 1), (["val", "val"], None)]


def test_a_strategy_is_given_the_records_of_each_training_epoch(tmp_path):
    strategy = Listening()
    quiet_trainer(tmp_path, strategy=strategy, max_epochs=2).fit(Logging(), Batches(2))
    assert strategy.heard == 4 * [(["number"], None)]  # before on_train_epoch_end, in which one may log, and after it


class Deciding(Strategy):
    """Rank 0 of the run has seen the metric fall by one each time."""

    value = 4.0

    def agree_on_value(self, name, value):
        assert (name, value) == ("score", 1.0)
        self.value -= 1
        return torch.tensor(self.value)


def test_a_strategy_decides_by_which_value_a_schedule_goes_on(tmp_path):
    class Plateau(SmallModel):
        def training_step(self, batch, batch_idx):
            self.log("score", 1.0)
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
            return {"optimizer": optimizer, "lr_scheduler": schedule, "monitor": "score"}

    for strategy, rate in ((Deciding(), 0.1), ("auto", 0.025)):
        trainer = quiet_trainer(tmp_path, strategy=strategy, max_epochs=3)
        trainer.fit(Plateau(), Batches(1))
        assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(rate)


class Recording(Launcher):
    takes_part = False

    def launch(self, function, *args):
        self.owner = function.__self__
        return function(*args)


def test_a_launcher_is_given_a_method_of_the_run_and_its_result_is_the_runs(tmp_path):
    class Launched(Strategy):
        launcher = Recording()

    trainer = quiet_trainer(tmp_path, strategy=Launched())
    assert trainer.validate(Counting(), Batches(2), verbose=False) == [{"val": 0.5}]
    assert Launched.launcher.owner is trainer.run


class TakesError(Strategy):
    """Notes with which error each run ends."""

    def __init__(self):
        self.ends = []

    def teardown(self, module=None, error=None):
        self.ends.append(error)
        super().teardown(module, error)


class Failing(SmallModel):
    def training_step(self, batch, batch_idx):
        raise ArithmeticError("the step can't be computed")


def test_a_strategys_teardown_is_given_the_error_of_a_failed_run(tmp_path):
    strategy = TakesError()
    quiet_trainer(tmp_path, strategy=strategy).fit(SmallModel(), Batches())
    assert strategy.ends == [None]
    with pytest.raises(ArithmeticError) as raised:
        quiet_trainer(tmp_path, strategy=strategy).fit(Failing(), Batches())
    assert strategy.ends[1:] == [raised.value]


def test_a_run_within_the_handling_of_an_error_has_not_failed(tmp_path):
    strategy = TakesError()
    try:
        raise ArithmeticError
    except ArithmeticError:
        quiet_trainer(tmp_path, strategy=strategy).fit(SmallModel(), Batches())
    assert strategy.ends == [None]


class RaisesTypeError(Strategy):
    ends = 0

    def teardown(self, module=None, error=None):
        self.ends += 1
        raise TypeError("teardown has an error of its own")


def test_a_type_error_of_a_teardown_is_raised_as_it_is(tmp_path):
    strategy = RaisesTypeError()
    with pytest.raises(TypeError, match="an error of its own"):
        quiet_trainer(tmp_path, strategy=strategy).fit(SmallModel(), Batches())
    assert strategy.ends == 2  # at the end of the run, and after the failure of that


class Clipping(Strategy):
    """Has a way of its own to clip gradients."""

    def __init__(self):
        self.clipped = []

    def clip_gradients(self, parameters, clip_val, algorithm):
        self.clipped.append((len(list(parameters)), clip_val, algorithm))


def test_a_strategy_clips_gradients(tmp_path):
    strategy = Clipping()
    quiet_trainer(tmp_path, strategy=strategy, gradient_clip_val=0.5).fit(SmallModel(), Batches(2))
    assert strategy.clipped == [(2, 0.5, "norm")] * 2

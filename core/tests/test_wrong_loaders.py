"""What is wrong with loaders and limits is said before any data is read; where it can't be known, as soon as it is."""

import pytest
import torch

import leyden as pl
from leyden.utilities import CombinedLoader, MisconfigurationException
from leyden_testing.models import Batches, EveryStep, Given, LoggingModel, SmallModel, Unsized, ValidatedModel, rows
from leyden_testing.training import quiet_trainer

LATE = {"max_epochs": 4, "check_val_every_n_epoch": 2, "num_sanity_val_steps": 0}  # validation is far away


class Two(EveryStep):
    """Trains and validates, and says of every hook of the data that it was asked."""

    def __init__(self, **loaders):
        super().__init__()
        self.loaders, self.asked = loaders, []

    def train_dataloader(self):
        self.asked.append("train")
        return self.loaders["train"]

    def val_dataloader(self):
        self.asked.append("val")
        return self.loaders["val"]


# -- before anything is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("passed", [True, False], ids=["passed", "from a hook"])
@pytest.mark.parametrize(
    ("val", "options", "error", "said"),
    [
        (Batches(3), {"limit_val_batches": 0.1}, MisconfigurationException, "limit_val_batches=0.1 of 3 batches is no"),
        (Unsized(1), {"limit_val_batches": 0.5}, MisconfigurationException, "limit_val_batches=0.5 is a fraction, but"),
        ([Batches(), Batches()], {}, RuntimeError, "There are 2 loaders, so validation_step must take dataloader_idx"),
        (7, {}, TypeError, "can't be iterated"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_validation_that_is_far_away_is_refused_before_training(tmp_path, passed, val, options, error, said):
    train = Batches()
    model = EveryStep() if passed else Two(train=train, val=val)
    with pytest.raises(error, match=said):
        quiet_trainer(tmp_path, **LATE, **options).fit(model, *((train, val) if passed else ()))
    assert train.drawn == 0


@pytest.mark.parametrize(
    ("train", "options", "error", "said"),
    [
        (Batches(4), {"limit_train_batches": 0.1}, MisconfigurationException, "limit_train_batches=0.1 of 4 batches"),
        (Unsized(1), {"limit_train_batches": 0.5}, MisconfigurationException, "limit_train_batches=0.5 is a fraction"),
        (Batches(4), {"val_check_interval": 9}, ValueError, "val_check_interval=9 is more than the 4 training batches"),
        (Unsized(1), {"val_check_interval": 0.5}, MisconfigurationException, "val_check_interval=0.5 is a fraction"),
        (CombinedLoader([Batches(), Batches()], "sequential"), {}, ValueError, 'mode="sequential"'),
        ([Batches(3), Batches(0)], {}, ValueError, "train_dataloaders that were passed gave a loader of no batches am"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_training_data_is_refused_before_the_sanity_check(tmp_path, train, options, error, said):
    val = Batches()
    with pytest.raises(error, match=said):
        quiet_trainer(tmp_path, **options).fit(EveryStep(), train, val)
    assert val.drawn == 0


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
def test_prediction_goes_through_loaders_one_after_another(tmp_path, mode):
    loaders = [Batches(), Batches()]
    with pytest.raises(ValueError, match=rf"CombinedLoader\(mode='{mode}'\) can't be predicted on; write"):
        quiet_trainer(tmp_path).predict(EveryStep(), CombinedLoader(loaders, mode))
    assert [loader.drawn for loader in loaders] == [0, 0]


def test_no_batches_and_an_interval_in_batches_train_nothing(tmp_path):
    trainer = quiet_trainer(tmp_path, val_check_interval=3)
    with pytest.warns(UserWarning, match="loaders of no batches"):
        trainer.fit(ValidatedModel(), Given(), rows(1))
    assert (trainer.state.finished, trainer.global_step) == (True, 0)


def test_hooks_are_asked_in_the_order_in_which_the_loaders_are_needed(tmp_path):
    """That of validation at the start of the fit at the latest; Lightning asks when it validates first."""
    for options, order in [({}, ["val", "train"]), (LATE, ["train", "val"])]:
        model = Two(train=Batches(), val=Batches())
        quiet_trainer(tmp_path, **{"max_epochs": 1, **options}).fit(model)
        assert model.asked == order


# -- what can be known only when it is read ------------------------------------------------------------------


def test_a_loader_without_length_that_is_empty_beside_others(tmp_path):
    with pytest.raises(ValueError, match="Loader 1 of the CombinedLoader yields no batches, so it can't be cycled"):
        quiet_trainer(tmp_path).fit(LoggingModel(), [rows(2), Unsized()])


def test_a_loader_that_is_shorter_than_it_said(tmp_path):
    """Its last batch is an epoch's last, with validation and the last step. In Lightning it has neither."""

    class Short(Given):
        def __len__(self):
            return 5

    class Model(ValidatedModel):
        def on_train_epoch_end(self):
            self.ended = True

    model, trainer = Model(), quiet_trainer(tmp_path, num_sanity_val_steps=0, accumulate_grad_batches=2)
    trainer.fit(model, Short(*rows(3)), rows(1))
    assert (trainer.global_step, trainer.current_epoch, model.ended) == (2, 1, True)
    assert "val_loss" in trainer.callback_metrics


def test_a_batch_whose_size_nobody_can_tell(tmp_path):
    class Model(LoggingModel):
        def training_step(self, batch, batch_idx):
            self.log("loss", 1.0, on_epoch=True)
            return self.layer.weight.sum()

    with pytest.raises(MisconfigurationException, match=r"No batch size was found in a batch of type object; say"):
        quiet_trainer(tmp_path).fit(Model(), Given(object()))


# -- where data comes from a data module ---------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_what_a_data_module_gives_is_named_with_its_hook(tmp_path, stage):
    hook = {"fit": "train", "validate": "val"}.get(stage, stage) + "_dataloader"
    data = type("Data", (pl.LightningDataModule,), {hook: lambda self: torch.nn.Linear(1, 1)})()
    with pytest.raises(
        TypeError, match=rf"^Data\.{hook}\(\) gave Linear.* of type Linear, which can't be iterated; giv"
    ):
        getattr(quiet_trainer(tmp_path), stage)(SmallModel() if stage == "fit" else EveryStep(), datamodule=data)

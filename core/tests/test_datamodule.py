"""LightningDataModule: when its methods are called, its state, and its use without a Trainer."""

import pickle

import pytest
import torch
from torch.utils.data import IterableDataset, RandomSampler, SequentialSampler, TensorDataset

import leyden as pl
from leyden.interfaces.strategy import Strategy
from leyden_testing.models import Given, LoggingModel, ValidatedModel, rows
from leyden_testing.training import quiet_trainer


class Data(pl.LightningDataModule):
    """Writes down what is called."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def prepare_data(self):
        self.calls.append("prepare")

    def setup(self, stage):
        self.calls.append(f"setup {stage}")

    def teardown(self, stage):
        self.calls.append(f"teardown {stage}")

    def loader(self, name):
        self.calls.append(name)
        return rows(2)

    def train_dataloader(self):
        return self.loader("train")

    def val_dataloader(self):
        return self.loader("val")

    def test_dataloader(self):
        return self.loader("test")

    def predict_dataloader(self):
        return self.loader("predict")


@pytest.mark.parametrize(
    ("stage", "loaders"),
    [("fit", ["val", "train"]), ("validate", ["val"]), ("test", ["test"]), ("predict", ["predict"])],
)
def test_what_is_called_in_each_stage(tmp_path, stage, loaders):
    data, trainer = Data(), quiet_trainer(tmp_path)
    getattr(trainer, stage)(ValidatedModel(), datamodule=data)
    assert data.calls == ["prepare", f"setup {stage}", *loaders, f"teardown {stage}"]
    assert trainer.datamodule is data
    assert data.trainer is trainer


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_it_may_stand_in_the_place_of_the_loaders(tmp_path, stage):
    data = Data()
    getattr(quiet_trainer(tmp_path), stage)(ValidatedModel(), data)
    assert f"setup {stage}" in data.calls


def test_it_is_set_up_before_the_model_and_torn_down_before_it(tmp_path):
    calls = []

    class Model(LoggingModel):
        def prepare_data(self):
            calls.append("model prepares")

        def setup(self, stage):
            calls.append("model set up")

        def teardown(self, stage):
            calls.append("model torn down")

    class Own(Data):
        def __init__(self):
            super().__init__()
            self.calls = calls

    quiet_trainer(tmp_path).fit(Model(), datamodule=_without_validation(Own))
    assert calls == [
        "prepare", "model prepares", "setup fit", "model set up", "train", "teardown fit", "model torn down",
    ]  # fmt: skip


def _without_validation(cls):
    return type("Training", (cls,), {"val_dataloader": pl.LightningDataModule.val_dataloader})()


class ElsewhereStrategy(Strategy):
    """One process, which says that it is another."""

    places = (0, 0)

    @property
    def local_rank(self):
        return self.places[0]

    @property
    def node_rank(self):
        return self.places[1]

    @property
    def root_device(self):
        return torch.device("cpu")


@pytest.mark.parametrize(
    ("per_node", "places", "prepares"),
    [
        (True, (0, 0), True), (True, (1, 0), False), (True, (0, 1), True), (True, (1, 1), False),
        (False, (0, 0), True), (False, (1, 0), False), (False, (0, 1), False), (False, (1, 1), False),
    ],
)  # fmt: skip
def test_which_process_prepares(tmp_path, per_node, places, prepares):
    strategy, data = ElsewhereStrategy(), Data()
    strategy.places, data.prepare_data_per_node = places, per_node
    quiet_trainer(tmp_path, strategy=strategy).test(LoggingModel(), datamodule=data, verbose=False)
    assert ("prepare" in data.calls) is prepares


def test_a_missing_loader_is_named(tmp_path):
    class Empty(pl.LightningDataModule):
        pass

    with pytest.raises(Exception, match=r"fit needs a train_dataloader.*in Empty"):
        quiet_trainer(tmp_path).fit(LoggingModel(), datamodule=Empty())


def test_loaders_of_the_model_fill_in(tmp_path):
    class Model(ValidatedModel):
        def val_dataloader(self):
            return rows(3)

    trainer = quiet_trainer(tmp_path)
    trainer.fit(Model(), datamodule=_without_validation(Data))
    assert trainer.num_val_batches == [3]


def test_an_exception_reaches_it(tmp_path):
    class Own(Data):
        def on_exception(self, exception):
            self.calls.append(str(exception))

    data, model = Own(), LoggingModel()
    model.test_step = lambda batch, batch_idx: 1 / 0
    with pytest.raises(ZeroDivisionError):
        quiet_trainer(tmp_path).test(model, datamodule=data)
    assert "division by zero" in data.calls


def test_by_hand_in_plain_pytorch():
    class Numbers(pl.LightningDataModule):
        def setup(self, stage):
            self.numbers = torch.arange(4.0)

        def train_dataloader(self):
            return self.numbers.split(2)

    data = Numbers()
    data.prepare_data()
    data.setup("fit")
    assert [batch.tolist() for batch in data.train_dataloader()] == [[0, 1], [2, 3]]
    assert data.trainer is None
    assert data.state_dict() == {}


def test_two_stages_with_one_object(tmp_path):
    data, trainer, model = Data(), quiet_trainer(tmp_path), ValidatedModel()
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    assert data.calls.count("prepare") == 2
    assert [call for call in data.calls if call.startswith("setup")] == ["setup fit", "setup test"]


def test_it_is_pickled_without_its_trainer(tmp_path):
    data = Data()
    quiet_trainer(tmp_path).test(LoggingModel(), datamodule=data, verbose=False)
    copy = pickle.loads(pickle.dumps(data))
    assert copy.trainer is None
    assert copy.calls == data.calls


# -- from_datasets ------------------------------------------------------------------------------------------


DATASET = TensorDataset(torch.arange(6.0))


class Stream(IterableDataset):
    def __iter__(self):
        yield from torch.arange(3.0)


def test_from_datasets():
    data = pl.LightningDataModule.from_datasets(DATASET, DATASET, DATASET, DATASET, batch_size=4)
    loaders = [getattr(data, f"{name}_dataloader")() for name in ("train", "val", "test", "predict")]
    assert [type(loader.sampler) for loader in loaders] == [RandomSampler] + [SequentialSampler] * 3
    assert [loader.batch_size for loader in loaders] == [4] * 4
    assert [len(batch[0]) for batch in loaders[1]] == [4, 2]


def test_from_collections_of_datasets():
    data = pl.LightningDataModule.from_datasets({"a": DATASET, "b": DATASET}, [DATASET, Stream()], num_workers=0)
    assert data.train_dataloader().keys() == {"a", "b"}
    first, second = data.val_dataloader()
    assert (len(list(first)), len(list(second))) == (6, 3)


def test_a_dataset_in_a_collection_may_be_a_list_and_goes_to_other_processes():
    data = pl.LightningDataModule.from_datasets({"a": [1, 2, 3]}, [[4], [5, 6]], batch_size=3)
    data = pickle.loads(pickle.dumps(data))
    assert [sorted(batch.tolist()) for batch in data.train_dataloader()["a"]] == [[1, 2, 3]]
    assert [[batch.tolist() for batch in loader] for loader in data.val_dataloader()] == [[[4]], [[5, 6]]]


def test_an_iterable_dataset_is_not_shuffled():
    data = pl.LightningDataModule.from_datasets(Stream())
    assert [float(batch) for batch in data.train_dataloader()] == [0, 1, 2]


def test_from_datasets_passes_arguments_on():
    class Own(pl.LightningDataModule):
        def __init__(self, size):
            super().__init__()
            self.save_hyperparameters()

    data = Own.from_datasets(DATASET, size=3)
    assert type(data) is Own
    assert data.hparams.size == 3


def test_a_fit_with_from_datasets(tmp_path):
    class Model(LoggingModel):
        def training_step(self, batch, batch_idx):
            return self.layer.weight.sum() * batch[0].mean()

    trainer = quiet_trainer(tmp_path)
    trainer.fit(Model(), datamodule=pl.LightningDataModule.from_datasets(DATASET, batch_size=2))
    assert trainer.global_step == 3


def test_its_loader_methods_may_be_put_on_the_instance(tmp_path):
    data = pl.LightningDataModule()
    data.test_dataloader = lambda: Given(*rows(2))
    assert len(quiet_trainer(tmp_path).test(LoggingModel(), datamodule=data, verbose=False)) == 1

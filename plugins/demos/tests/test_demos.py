"""The demo models and data: with the same seed they give the same data and weights as Lightning's, to the last bit."""

from __future__ import annotations

import importlib
import inspect
import logging
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import leyden as pl
from leyden.demos import boring_classes

DATASETS = ["RandomDataset", "RandomDictDataset", "RandomIterableDataset", "RandomIterableDatasetWithLen"]
DATA_MODULES = ["BoringDataModule", "BoringDataModuleNoLen", "IterableBoringDataModule"]
STAGES = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"], "predict": ["predict"]}


def in_both(run: Callable[[ModuleType, ModuleType], Any]) -> Any:
    """Call ``run(library, demos)`` for both libraries, check that the results are equal, and return Leyden's."""
    torch.manual_seed(7)
    ours = run(pl, boring_classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's own
        lightning = importlib.import_module("pytorch_lightning")
        demos = importlib.import_module("pytorch_lightning.demos.boring_classes")
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        torch.manual_seed(7)
        theirs = run(lightning, demos)
    assert plain(ours) == plain(theirs)
    return ours


def plain(value: Any) -> Any:
    """Return the value with lists in place of tensors and datasets, so that it can be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def test_the_classes_and_their_arguments_are_lightning_s() -> None:
    def classes(library: ModuleType, demos: ModuleType) -> dict[str, list[tuple[str, Any]]]:
        own = {name: member for name, member in vars(demos).items() if inspect.isclass(member)}
        return {
            name: [(p.name, p.default) for p in inspect.signature(member).parameters.values()]
            for name, member in own.items()
            if member.__module__ == demos.__name__ and not name.startswith("_")
        }

    assert "BoringModel" in in_both(classes)


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset(name: str) -> None:
    def draw(library: ModuleType, demos: ModuleType) -> Any:
        dataset = getattr(demos, name)(5, 3)
        samples = [sample for _ in range(2) for sample in DataLoader(dataset)]
        return samples, vars(dataset), len(dataset) if hasattr(dataset, "__len__") else None

    samples, _, length = in_both(draw)
    assert len(samples) == 6
    assert length == (None if name == "RandomIterableDataset" else 3)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", DATA_MODULES)
def test_a_data_module(name: str, stage: str) -> None:
    def draw(library: ModuleType, demos: ModuleType) -> Any:
        data = getattr(demos, name)()
        data.setup(stage)
        loaders = [getattr(data, f"{part}_dataloader")() for part in STAGES[stage]]
        flat = [loader for each in loaders for loader in (each if isinstance(each, list) else [each])]
        attributes = [f"{part}_datasets" if name.startswith("Iter") else f"random_{part}" for part in STAGES[stage]]
        assert all(hasattr(data, attribute) for attribute in attributes)
        return [[batch for batch, _ in zip(loader, range(3), strict=False)] for loader in flat], [
            len(loader) if name == "BoringDataModule" else 0 for loader in flat
        ]

    batches, lengths = in_both(draw)
    assert all(len(each) == 3 for each in batches)
    assert set(lengths) == {64 if name == "BoringDataModule" else 0}


@pytest.mark.parametrize("data", [None, *DATA_MODULES[:2]])
@pytest.mark.parametrize("name", ["BoringModel", "ManualOptimBoringModel"])
def test_a_boring_run(tmp_path: Path, name: str, data: str | None) -> None:
    def run(library: ModuleType, demos: ModuleType) -> Any:
        model = getattr(demos, name)()
        datamodule = getattr(demos, data)() if data is not None else None
        trainer = library.Trainer(
            accelerator="cpu", max_epochs=2, limit_train_batches=20, limit_val_batches=5, limit_test_batches=5,
            limit_predict_batches=5, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        before = model.layer.weight.detach().clone()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # data without length
            trainer.fit(model, datamodule=datamodule)
            trainer.test(model, datamodule=datamodule, verbose=False)
            predictions = trainer.predict(model, datamodule=datamodule)
        assert not torch.equal(before, model.layer.weight)
        return model.state_dict(), predictions, trainer.optimizers[0].param_groups[0]["lr"]

    weights, predictions, _ = in_both(run)
    assert set(weights) == {"layer.weight", "layer.bias"}
    assert len(predictions) == 5


def test_a_boring_model_by_hand() -> None:
    def steps(library: ModuleType, demos: ModuleType) -> Any:
        model, batch = demos.BoringModel(), torch.randn(4, 32)
        labels = torch.zeros(4, 2)
        returned = [model.training_step(batch, 0), model.validation_step(batch, 0), model.test_step(batch, 0)]
        return returned, model.step(batch), model.loss(model(batch), labels)

    (training, validation, test), loss, _ = in_both(steps)
    assert (list(training), list(validation), list(test)) == (["loss"], ["x"], ["y"])
    assert training["loss"] == loss


def test_a_demo_run(tmp_path: Path) -> None:
    def run(library: ModuleType, demos: ModuleType) -> Any:
        model = demos.DemoModel(out_dim=3, learning_rate=0.1)
        trainer = library.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few workers
            trainer.fit(model, DataLoader(demos.RandomDataset(32, 16), batch_size=4))
        return model.state_dict(), model.learning_rate, model(torch.ones(2, 4, 8))

    weights, rate, outputs = in_both(run)
    assert weights["l1.weight"].shape == (3, 32)
    assert rate == 0.1
    assert outputs.shape == (2, 3)


def test_the_net_sees_digits() -> None:
    def outputs(library: ModuleType, demos: ModuleType) -> Any:
        return demos.Net()(torch.randn(2, 1, 28, 28))

    assert in_both(outputs).exp().sum(1).tolist() == pytest.approx([1.0, 1.0])


def test_the_usual_ones_are_a_level_up_too() -> None:
    from leyden import demos

    assert {name: getattr(demos, name) for name in dir(demos)} == {
        "BoringDataModule": boring_classes.BoringDataModule,
        "BoringModel": boring_classes.BoringModel,
        "DemoModel": boring_classes.DemoModel,
    }


def test_the_module_is_found_by_every_form_of_import() -> None:
    import leyden.demos.boring_classes as one
    from leyden.demos.boring_classes import BoringModel

    assert one is pl.demos.boring_classes is boring_classes
    assert BoringModel is one.BoringModel
    assert pickle.loads(pickle.dumps(BoringModel)) is BoringModel

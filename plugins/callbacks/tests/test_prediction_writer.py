"""BasePredictionWriter: what is written when, beside pytorch-lightning's and on its own."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import leyden
from leyden.callbacks import BasePredictionWriter
from leyden.utilities import MisconfigurationException
from leyden_callbacks.batch_indices import tracking
from leyden_testing.training import quiet_trainer


def make_writer(base: Any, interval: str) -> Any:
    class Writer(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(interval)
            self.written: list[Any] = []

        def write_on_batch_end(self, trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx):  # type: ignore[no-untyped-def]
            self.written.append((prediction.tolist(), list(batch_indices), batch.shape, batch_idx, dataloader_idx))

        def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):  # type: ignore[no-untyped-def]
            self.written.append((as_lists(predictions), as_lists(batch_indices)))

    return Writer()


def as_lists(value: Any) -> Any:
    return [as_lists(part) for part in value] if isinstance(value, list) else getattr(value, "tolist", lambda: value)()


def predict(library: Any, root: Path, writer: Any, small: Any, loaders: Any, **arguments: Any) -> Any:
    with warnings.catch_warnings():
        if library is not leyden:
            warnings.simplefilter("ignore")
        trainer = quiet_trainer(root, library.Trainer, devices=1, callbacks=[writer])
        return trainer.predict(small.make_model(library), loaders, **arguments)


def shuffled(small: Any) -> Any:
    data = small.make_loader(3).dataset
    return torch.utils.data.DataLoader(
        data, batch_size=2, sampler=torch.utils.data.SubsetRandomSampler(range(5), torch.Generator().manual_seed(1))
    )


LOADERS = {
    "one": lambda small: small.make_loader(3),
    "one in a list": lambda small: [small.make_loader(2)],
    "two": lambda small: [small.make_loader(2), small.make_loader(3, batch_size=1)],
    "shuffled, the last batch smaller": shuffled,
}


@pytest.mark.parametrize("returned", [True, False])
@pytest.mark.parametrize("loaders", LOADERS)
@pytest.mark.parametrize("interval", ["batch", "epoch", "batch_and_epoch"])
def test_writes_what_lightning_writes(
    interval: str, loaders: str, returned: bool, tmp_path: Path, lightning: Any, small: Any
) -> None:
    seen = {}
    for library, base in ((leyden, BasePredictionWriter), (lightning, lightning.callbacks.BasePredictionWriter)):
        writer = make_writer(base, interval)
        result = predict(library, tmp_path, writer, small, LOADERS[loaders](small), return_predictions=returned)
        seen[library.__name__] = (writer.written, as_lists(result))
    assert seen["leyden"] == seen["pytorch_lightning"]
    assert seen["leyden"][0]


def test_the_indices_are_those_of_the_batch_where_workers_draw_ahead(tmp_path: Path, small: Any) -> None:
    writers = [make_writer(BasePredictionWriter, interval) for interval in ("batch", "batch_and_epoch")]
    data = list(range(10))
    sampler = torch.utils.data.SubsetRandomSampler(data, torch.Generator().manual_seed(1))
    loader = torch.utils.data.DataLoader(data, batch_size=2, sampler=sampler, num_workers=2)
    model, seen = small.make_model(leyden), []
    model.predict_step = lambda batch, batch_idx: batch
    trainer = quiet_trainer(tmp_path, devices=1, callbacks=writers, limit_predict_batches=4)
    for _ in range(2):
        trainer.predict(model, loader)
        batches, end = writers[1].written[:-1], writers[1].written[-1]
        assert [indices for _, indices, *_ in batches] == [prediction for prediction, *_ in batches] == end[0]
        assert end[1] == [end[0]]
        assert len(end[0]) == 4
        assert writers[0].written == batches
        seen.append(end)
        for writer in writers:
            writer.written.clear()
    assert seen[0] != seen[1]


def test_the_indices_are_those_of_the_loader_that_other_plugins_put_in(tmp_path: Path, small: Any) -> None:
    def leyden_prepare_loader() -> Any:
        loader = yield
        return torch.utils.data.DataLoader(loader.dataset, batch_size=1, sampler=[2, 0])

    plugin = SimpleNamespace(leyden_prepare_loader=leyden.hookimpl(leyden_prepare_loader, wrapper=True))
    writer = make_writer(BasePredictionWriter, "epoch")
    trainer = quiet_trainer(tmp_path, devices=1, callbacks=[writer], plugins=plugin)
    trainer.predict(small.make_model(leyden), small.make_loader(3))
    assert writer.written[0][1] == [[[2], [0]]]


class Other(leyden.Callback):
    """Keeps the type of the loader's batch sampler."""

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        self.batch_sampler = type(trainer.predict_loop.loader.flattened[0].batch_sampler)


def test_nothing_is_kept_without_a_writer(tmp_path: Path, small: Any) -> None:
    other, writer = Other(), make_writer(BasePredictionWriter, "batch")
    loader = small.make_loader(2)
    given = loader.batch_sampler
    trainer = quiet_trainer(tmp_path, devices=1, callbacks=[other])
    trainer.predict(small.make_model(leyden), loader)
    assert other.batch_sampler is type(given)
    trainer.callbacks.append(writer)
    trainer.predict(small.make_model(leyden), loader)
    assert other.batch_sampler is not type(given)
    assert loader.batch_sampler is given
    assert [indices for _, indices, *_ in writer.written] != [[], []]


@pytest.mark.parametrize("returned", [True, False])
def test_a_writer_of_the_module_that_has_hooks_of_its_own(tmp_path: Path, small: Any, returned: bool) -> None:
    class Own(type(make_writer(BasePredictionWriter, "epoch"))):  # type: ignore[misc]
        def started(self, *args: Any, **kwargs: Any) -> None:
            """Take the place of the writer's method, without calling it."""

        on_predict_start = on_predict_epoch_start = on_predict_batch_start = started

    writer, model = Own(), small.make_model(leyden)
    model.configure_callbacks = lambda: [writer]
    trainer = quiet_trainer(tmp_path, devices=1)
    for _ in range(2):
        trainer.predict(model, small.make_loader(2), return_predictions=returned)
    assert writer.written[0] == writer.written[1]
    assert [len(batch) for batch in writer.written[0][0]] == [len(batch) for batch in writer.written[0][1][0]]


def test_loaders_without_a_batch(tmp_path: Path, small: Any) -> None:
    writer = make_writer(BasePredictionWriter, "epoch")
    loaders = [torch.utils.data.DataLoader([]), small.make_loader(2), torch.utils.data.DataLoader([])]
    predict(leyden, tmp_path, writer, small, loaders, return_predictions=False)
    predictions, indices = writer.written[0]
    assert [len(batches) for batches in predictions] == [len(batches) for batches in indices] == [0, 2, 0]


class Stream:
    """A loader that draws no indices."""

    def __init__(self, *batches: torch.Tensor) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


def test_a_loader_without_indices(tmp_path: Path, small: Any) -> None:
    writer = make_writer(BasePredictionWriter, "batch_and_epoch")
    predict(leyden, tmp_path, writer, small, Stream(torch.ones(2, 4), torch.zeros(2, 4)))
    batches, end = writer.written[:2], writer.written[2]
    assert [indices for _, indices, *_ in batches] == [[], []]
    assert end == ([[4.0, 4.0], [0.0, 0.0]], [[[], []]])


def test_a_second_run_starts_afresh(tmp_path: Path, small: Any) -> None:
    writer = make_writer(BasePredictionWriter, "epoch")
    broken = Stream(torch.ones(2, 4), torch.ones(2))  # predict_step sums the second dimension
    with pytest.raises(IndexError):
        predict(leyden, tmp_path, writer, small, broken, return_predictions=False)
    for _ in range(2):
        predict(leyden, tmp_path, writer, small, small.make_loader(2), return_predictions=False)
    assert len(writer.written[0][0]) == 2
    assert writer.written[0] == writer.written[1]


@pytest.mark.parametrize(("interval", "method"), [("batch", "write_on_batch_end"), ("epoch", "write_on_epoch_end")])
def test_what_is_not_written_is_named(tmp_path: Path, small: Any, interval: Any, method: str) -> None:
    with pytest.raises(NotImplementedError, match=method):
        predict(leyden, tmp_path, BasePredictionWriter(interval), small, small.make_loader(1))


def test_interval_is_checked() -> None:
    with pytest.raises(MisconfigurationException, match="write_interval='step'"):
        BasePredictionWriter("step")  # type: ignore[arg-type]


def test_a_loader_whose_batches_are_kept_can_be_copied():
    """A strategy that divides the data copies the batch sampler, and the next prediction may be given the same one."""
    loader = tracking(torch.utils.data.DataLoader(range(5), batch_size=2))
    copied = copy.copy(loader.batch_sampler)
    assert list(copied) == copied.indices == [[0, 1], [2, 3], [4]]
    assert copied.batch_size == 2

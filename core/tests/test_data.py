"""Loaders and batches: CombinedLoader and its modes, several training loaders, how a batch gets to the device."""

from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import leyden as pl
from leyden.utilities import CombinedLoader, move_data_to_device
from leyden_testing.models import Given, LoggingModel, SmallModel, Unsized, rows
from leyden_testing.training import quiet_trainer

# -- CombinedLoader -----------------------------------------------------------------------------------------


def batches_of(loader):
    return [(batch, batch_idx, dataloader_idx) for batch, batch_idx, dataloader_idx in loader]


def test_min_size():
    loader = CombinedLoader({"a": range(3), "b": "xyzw"}, "min_size")
    assert batches_of(loader) == [({"a": i, "b": letter}, i, 0) for i, letter in enumerate("xyz")]
    assert len(loader) == 3


def test_max_size():
    loader = CombinedLoader([range(3), "x"], "max_size")
    assert batches_of(loader) == [([0, "x"], 0, 0), ([1, None], 1, 0), ([2, None], 2, 0)]
    assert len(loader) == 3


def test_max_size_cycle():
    loader = CombinedLoader([range(5), "xy"], "max_size_cycle")
    assert [batch for batch, _, _ in loader] == [[0, "x"], [1, "y"], [2, "x"], [3, "y"], [4, "x"]]
    assert len(loader) == 5


def test_sequential():
    loader = CombinedLoader([range(2), "", "x"], "sequential")
    assert batches_of(loader) == [(0, 0, 0), (1, 1, 0), ("x", 0, 2)]
    assert len(loader) == 3


def test_nested_collections_keep_their_shape():
    loader = CombinedLoader({"a": range(2), "b": [range(2), {"c": (range(2),)}]}, "min_size")
    assert [batch for batch, _, _ in loader] == [{"a": i, "b": [i, {"c": (i,)}]} for i in range(2)]
    assert loader.flattened == [range(2)] * 3


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    limits=st.lists(st.integers(0, 6), min_size=4, max_size=4),
    mode=st.sampled_from(["min_size", "max_size", "max_size_cycle", "sequential"]),
    sized=st.booleans(),
)
def test_every_mode_against_its_definition(lengths, limits, mode, sized):
    kind = Given if sized else Unsized
    loader = CombinedLoader([kind(*range(length)) for length in lengths], mode)
    loader.limits = limits[: len(lengths)] if mode != "max_size_cycle" else None
    sizes = lengths if loader.limits is None else [min(n, m) for n, m in zip(lengths, loader.limits, strict=True)]
    if mode == "sequential":
        expected = [(b, b, i) for i, size in enumerate(sizes) for b in range(size)]
    else:
        count = min(sizes) if mode == "min_size" else max(sizes)
        past_end = {"max_size": lambda b, n: None, "max_size_cycle": lambda b, n: b % n}.get(mode)
        expected = [([b if b < n else past_end(b, n) for n in sizes], b, 0) for b in range(count)]
    assert batches_of(loader) == expected
    assert batches_of(loader) == expected  # and again
    if sized:
        assert len(loader) == len(expected)


def test_without_a_length_it_has_none():
    loader = CombinedLoader([range(3), Unsized(1, 2)], "max_size")
    with pytest.raises(TypeError, match="length"):
        len(loader)
    assert len(CombinedLoader([range(3)], "sequential")) == 3


def test_what_a_combined_loader_refuses():
    with pytest.raises(ValueError, match=r"mode='longest'\) is not known.*max_size_cycle"):
        CombinedLoader([], "longest")
    loader = CombinedLoader([range(2), range(3)])
    with pytest.raises(ValueError, match="2 loaders, but 1 limits"):
        loader.limits = [1]
    with pytest.raises(ValueError, match="2 loaders to replace, but 1"):
        loader.flattened = [range(1)]
    with pytest.raises(ValueError, match=r"Loader 1.*can't be cycled"):
        list(CombinedLoader([range(2), Unsized()], "max_size_cycle"))


def test_loaders_can_be_replaced_in_their_places():
    loader = CombinedLoader({"a": range(1), "b": [range(2)]}, "max_size")
    loader.flattened = [range(3), range(4)]
    assert loader.iterables == {"a": range(3), "b": [range(4)]}


# -- in a fit -----------------------------------------------------------------------------------------------


class Batches(LoggingModel):
    """Keeps what it is trained on."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return self.layer.weight.sum()


def train_on(tmp_path, loaders, **options):
    model = Batches()
    trainer = quiet_trainer(tmp_path, **options)
    trainer.fit(model, loaders)
    return model.seen, trainer


LOADERS = {
    "with a length": lambda numbers: Given(*numbers),
    "without a length": lambda numbers: Unsized(*numbers),
    "iterator": iter,
    "generator": lambda numbers: (number for number in numbers),
    "DataLoader": lambda numbers: DataLoader(numbers, batch_size=None),
    "range": lambda numbers: range(1, 4),
    "by index": lambda numbers: type("Indexed", (), {"__getitem__": lambda self, index: numbers[index]})(),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_any_iterable_of_batches(tmp_path, kind):
    loader = LOADERS[kind]([1, 2, 3])
    seen, trainer = train_on(tmp_path, loader)
    assert seen == [1, 2, 3]
    assert trainer.num_training_batches == (3 if hasattr(loader, "__len__") else float("inf"))


def test_an_iterable_dataset_without_a_length(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            yield from torch.arange(10.0)

    seen, trainer = train_on(tmp_path, DataLoader(Stream(), batch_size=4), max_epochs=2)
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    assert trainer.num_training_batches == float("inf")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (None, [(0, 0), (1, 1), (2, 0)]),  # the default: the shorter starts over
        ("min_size", [(0, 0), (1, 1)]),
        ("max_size", [(0, 0), (1, 1), (2, None)]),
        ("max_size_cycle", [(0, 0), (1, 1), (2, 0)]),
    ],
)
@pytest.mark.parametrize("shape", ["dict", "list", "nested"])
def test_several_training_loaders(tmp_path, mode, expected, shape):
    long, short = Given(0, 1, 2), Given(0, 1)
    loaders, build = {
        "dict": ({"a": long, "b": short}, lambda a, b: {"a": a, "b": b}),
        "list": ([long, short], lambda a, b: [a, b]),
        "nested": ({"x": [long, {"y": short}]}, lambda a, b: {"x": [a, {"y": b}]}),
    }[shape]
    seen, trainer = train_on(tmp_path, CombinedLoader(loaders, mode) if mode else loaders, max_epochs=2)
    assert seen == [build(*pair) for pair in expected] * 2
    assert trainer.num_training_batches == len(expected)
    assert trainer.train_dataloader is not None


def test_nothing_is_read_past_the_shortest(tmp_path):
    drawn = []
    endless = (drawn.append(number) or number for number in range(9))
    seen, _ = train_on(tmp_path, CombinedLoader([endless, Given(0, 1)], "min_size"))
    assert seen == [[0, 0], [1, 1]]
    assert drawn == [0, 1]


def test_a_sequential_training_loader_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sequential"):
        train_on(tmp_path, CombinedLoader([Given(1), Given(2)], "sequential"))


def test_the_users_loader_is_left_as_it_was(tmp_path):
    class Own(DataLoader):
        def __init__(self, count, *, note):
            super().__init__(torch.arange(count), batch_size=2, shuffle=True)
            self.note = note

    loader = Own(8, note="mine")
    before = dict(vars(loader))
    _, trainer = train_on(tmp_path, loader, limit_train_batches=2)
    assert vars(loader) == before
    assert trainer.train_dataloader is loader


# -- moving a batch -----------------------------------------------------------------------------------------


Pair = namedtuple("Pair", "x y")


@dataclass
class Sample:
    x: torch.Tensor
    name: str = "sample"
    parts: list = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    x: torch.Tensor


class Graph:
    """A batch of a class of its own that knows how to move."""

    def __init__(self, device="cpu"):
        self.device = device

    def to(self, device, **options):
        return Graph(str(device))


META = torch.device("meta")


def test_every_tensor_of_a_collection_moves_and_types_stay():
    x = torch.ones(2)
    batch = {
        "list": [x, 1, "text", None], "tuple": (x,), "pair": Pair(x, 2), "sample": Sample(x, parts=[x]),
        "ordered": OrderedDict(a=x), "default": defaultdict(list, a=[x]), "frozen": Frozen(x), "graph": Graph(),
        "packed": nn.utils.rnn.pack_sequence([x]),
    }  # fmt: skip
    moved = move_data_to_device(batch, META)
    tensors = [
        moved["list"][0], moved["tuple"][0], moved["pair"].x, moved["sample"].x, moved["sample"].parts[0],
        moved["ordered"]["a"], moved["default"]["a"][0], moved["frozen"].x, moved["packed"].data,
    ]  # fmt: skip
    assert all(tensor.device == META for tensor in tensors)
    assert moved["graph"].device == "meta"
    assert moved["list"][1:] == [1, "text", None]
    assert {name: type(value) for name, value in moved.items()} == {name: type(value) for name, value in batch.items()}
    assert moved["default"]["new"] == []
    assert batch["sample"].x.device.type == "cpu"


class Transferring(Batches):
    """Writes down its transfer hooks; moves batches of a class of its own."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.calls.append(f"before {dataloader_idx}")
        return batch + 1

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.calls.append(f"to {device} {dataloader_idx}")
        return batch * 10

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.calls.append(f"after {dataloader_idx}")
        return batch + 2

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen.append(batch)


def test_transfer_hooks_run_in_their_order(tmp_path):
    model = Transferring()
    quiet_trainer(tmp_path).fit(model, Given(1))
    assert model.seen == [22]
    assert model.calls == ["before 0", "to cpu 0", "after 0"]


def test_transfer_hooks_know_the_loader(tmp_path):
    model = Transferring()
    quiet_trainer(tmp_path).test(model, [Given(1), Given(2)], verbose=False)
    assert model.seen == [22, 32]
    assert model.calls[3:] == ["before 1", "to cpu 1", "after 1"]


def test_the_data_modules_transfer_hooks_come_before_the_models(tmp_path):
    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            return Given(1)

        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch + 100

    model = Transferring()
    quiet_trainer(tmp_path).fit(model, datamodule=Data())
    assert model.seen == [1012]
    assert model.calls == ["to cpu 0", "after 0"]


def test_a_transfer_hook_may_log(tmp_path):
    class Logging(Batches):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            self.log("size", float(len(batch[0])))
            return batch

    trainer = quiet_trainer(tmp_path)
    trainer.fit(Logging(), rows(1))
    assert trainer.callback_metrics["size"] == 2


class Single(IterableDataset):
    """Gives three batches as they are."""

    def __iter__(self):
        yield from torch.ones(3, 2, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_without_batches_ends_with_workers_too(tmp_path, workers):
    """PyTorch asks its workers for None then, each time."""
    model, seen = SmallModel(), []
    step = model.training_step
    model.training_step = lambda batch, batch_idx: (seen.append(batch.tolist()), step(batch, batch_idx))[1]
    trainer = quiet_trainer(tmp_path, limit_train_batches=5)
    trainer.fit(model, DataLoader(Single(), batch_size=None, num_workers=workers))
    assert seen == torch.ones(3, 2, 2).tolist()

"""What a checkpoint holds, that it is data only, durable and intact, and who else can read it."""

import enum
import importlib
import os
import pathlib
import random
import warnings
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recording import LoggingModel, ValidatedModel, quiet_trainer, rows, same_weights, weights
from torch import nn

import leyden as pl
from leyden.utilities.exceptions import CheckpointCorruptedError, MisconfigurationException

# -- data only ----------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    DEEP = (1, 2)
    ODD = len


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Settings:
    rate: float
    inner: object = None


Point = namedtuple("Point", "x y")


class Loud(str):
    def __str__(self):
        return "loud"


class OwnTensor(torch.Tensor):
    pass


class Grumpy(dict):
    def items(self):
        raise RuntimeError("not today")


def itself():
    values = {"name": "itself"}
    values["again"] = values
    return values


NUMPY = [
    np.float64(1.5), np.float16(0.5), np.int8(-3), np.uint64(2**63), np.bool_(True), np.complex64(1 + 2j),
    np.longdouble(1.25), np.str_("text"), np.bytes_(b"bytes"), np.datetime64("2020-01-01"), np.timedelta64(3, "s"),
    np.arange(3), np.arange(4, dtype=">i4"), np.ones((2, 2), dtype="uint16"), np.ones(2, dtype=np.longdouble),
    np.array(["a", "bc"]), np.array([1, "x", None], dtype=object), np.array(7), np.eye(3)[::2, ::-1], np.zeros((0, 3)),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), np.random.default_rng(0), np.dtype("f4"), np.float32,
    np.ma.masked_array([1, 2], mask=[0, 1]), np.array([lambda: 0], dtype=object),
]  # fmt: skip
OBJECTS = [
    lambda x: x, nn.Linear(2, 2), nn.ReLU, len, open, os.environ, object(), itself(), Grumpy(a=1), Loud("quiet"),
    Colour.RED, Colour.DEEP, Colour.ODD, Level.HIGH, Settings(0.1, pathlib.Path("a")), Settings(0.1, print),
    Point(1, 2), Point(1, max), Namespace(lr=0.1, f=abs), pathlib.PurePosixPath("/a/b"), pathlib.Path("c"),
    datetime(2020, 1, 1), date(2020, 1, 1), timedelta(hours=1), Counter("abca"), deque([1, 2], maxlen=2), range(3),
    OrderedDict(a=1, b=[2]), defaultdict(list, a=[1]), bytearray(b"xy"), memoryview(b"xy"), frozenset({1}),
    torch.float32, torch.device("cpu"), torch.Size([1, 2]), torch.ones(2), nn.Parameter(torch.ones(2)),
    torch.ones(2).as_subclass(OwnTensor), OrderedDict(a=torch.ones(1).as_subclass(OwnTensor)), torch.strided,
    torch.Generator(), torch.ones(2).to_sparse(), 2**3000, 2**2039, -(2**2039),
    float("nan"), "\ud800", b"", Ellipsis, NotImplemented, pl.Callback(),
]  # fmt: skip
NUMBERS = st.booleans() | st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
JSON = st.none() | NUMBERS | st.text() | st.binary()
PLAIN = st.recursive(JSON, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner))
KEYS = st.text() | st.integers() | st.sampled_from([Colour.RED, pathlib.Path("k"), frozenset({1}), (1, "a"), None, len])
ANYTHING = st.recursive(
    JSON | st.sampled_from(NUMPY) | st.sampled_from(OBJECTS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.tuples(inner)
        | st.builds(Settings, st.floats(), inner)
        | st.builds(lambda v: Namespace(v=v), inner)
    ),
    max_leaves=8,
)
QUICK = settings(
    deadline=None, max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A Trainer after a fit, for tests that only save and load."""
    trainer = quiet_trainer(tmp_path_factory.mktemp("trained"))
    trainer.fit(LoggingModel(), rows(2))
    return trainer


def save_hparams(trainer, path, values):
    """What a checkpoint of a model with these hyperparameters gives back."""
    trainer.lightning_module.hparams.clear()
    trainer.lightning_module.hparams.update(values)
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True).get("hyper_parameters", {})


@QUICK
@given(values=st.dictionaries(st.text(), ANYTHING, max_size=4))
def test_any_hyperparameters_load_with_weights_only(trained, tmp_path, values):
    loaded = save_hparams(trained, tmp_path / "any.ckpt", values)
    assert set(loaded) <= set(values)


@pytest.mark.parametrize("value", [*NUMPY, *OBJECTS], ids=lambda value: type(value).__name__)
def test_each_kind_of_value_loads_or_is_left_out(trained, tmp_path, value):
    values = {"value": value, "list": [value], "nested": {"value": value, "other": 1}}
    loaded = save_hparams(trained, tmp_path / "each.ckpt", values)
    assert loaded["nested"]["other"] == 1


@QUICK
@given(values=st.dictionaries(st.text(), PLAIN, max_size=4))
def test_plain_hyperparameters_come_back_equal(trained, tmp_path, values):
    assert save_hparams(trained, tmp_path / "plain.ckpt", values) == values


KEPT = {
    "float64": (np.float64(1.5), 1.5),
    "longdouble": (np.longdouble(1.25), 1.25),
    "big endian": (np.arange(3, dtype=">i4"), torch.arange(3, dtype=torch.int32)),
    "scalar array": (np.array(7), 7),
    "array of text": (np.array(["a", "b"]), ["a", "b"]),
    "path": (pathlib.PurePosixPath("/a/b"), "/a/b"),
    "enum": (Colour.RED, "red"),
    "int enum": (Level.HIGH, 3),
    "dataclass": (Settings(0.1, pathlib.PurePosixPath("a")), {"rate": 0.1, "inner": "a"}),
    "part of a dataclass": (Settings(0.1, len), {"rate": 0.1}),
    "named tuple": (Point(1, 2), (1, 2)),
    "namespace": (Namespace(lr=0.1), {"lr": 0.1}),
    "date": (date(2020, 1, 2), "2020-01-02"),
    "duration": (timedelta(minutes=1), 60.0),
    "counter": (Counter("aab"), Counter("aab")),
    "deque": (deque([1, 2]), [1, 2]),
    "range": (range(3), [0, 1, 2]),
    "set": ({1, 2}, {1, 2}),
    "text that says it is something else": (Loud("quiet"), "quiet"),
    "dict that contains itself": (itself(), {"name": "itself"}),
    "key": ({pathlib.PurePosixPath("k"): 1, Colour.RED: 2}, {"k": 1, "red": 2}),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_is_kept_of_values_that_are_not_plain(trained, tmp_path, case):
    given_value, expected = KEPT[case]
    loaded = save_hparams(trained, tmp_path / "kept.ckpt", {"value": given_value})["value"]
    assert type(loaded) is type(expected)
    assert torch.equal(loaded, expected) if isinstance(expected, torch.Tensor) else loaded == expected


def test_hyperparameters_that_are_no_data_are_named_once_when_the_run_begins(tmp_path):
    class Model(LoggingModel):
        def __init__(self, width, backbone, act):
            super().__init__()
            self.save_hyperparameters()

    model = Model(3, nn.Linear(2, 2), torch.relu)
    trainer = quiet_trainer(tmp_path)
    with pytest.warns(UserWarning, match=r"not saved: backbone, act.*load_from_checkpoint\(path, backbone="):
        trainer.fit(model, rows(1))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.test(model, rows(1))
    with pytest.raises(MisconfigurationException, match="backbone"):
        Model.load_from_checkpoint(tmp_path / "a.ckpt")
    loaded = Model.load_from_checkpoint(tmp_path / "a.ckpt", backbone=nn.Linear(2, 2), act=torch.relu)
    assert loaded.hparams.width == 3
    assert same_weights(loaded, model)


def test_state_that_is_no_data_is_left_out_by_its_key_and_the_rest_is_saved(tmp_path):
    class Model(LoggingModel):
        def on_save_checkpoint(self, checkpoint):
            checkpoint["mine"] = {"good": 1, "bad": lambda: 0}

    trainer = quiet_trainer(tmp_path, callbacks=[Handle()])
    trainer.fit(Model(), rows(1))
    with pytest.warns(UserWarning, match=r"Left out.*callbacks\.Handle\.handle, mine\.bad"):
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.save_checkpoint(tmp_path / "a.ckpt")  # and is not said again
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert saved["mine"] == {"good": 1}
    assert saved["callbacks"]["Handle"] == {"count": 3}


class Handle(pl.Callback):
    def state_dict(self):
        return {"count": 3, "handle": object()}


class Exploit:
    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_loading_runs_no_code_of_the_file_unless_asked_to(tmp_path):
    path, exploit = tmp_path / "evil.ckpt", Exploit()
    exploit.path = str(tmp_path / "made")
    torch.save({"state_dict": {}, "hyper_parameters": {"x": exploit}}, path)
    for load in (LoggingModel.load_from_checkpoint, lambda p: quiet_trainer(tmp_path).test(LoggingModel(), rows(1), p)):
        with pytest.raises(RuntimeError, match=r"no data.*weights_only=False only if you trust"):
            load(path)
    assert not (tmp_path / "made").exists()
    model = LoggingModel()
    torch.save({"state_dict": model.state_dict(), "mine": Settings(0.5)}, path)
    assert same_weights(LoggingModel.load_from_checkpoint(path, weights_only=False), model)


# -- intact and durable -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    """The bytes of a checkpoint and its weights."""
    path = tmp_path_factory.mktemp("saved") / "whole.ckpt"
    trained.save_checkpoint(path)
    return path.read_bytes(), weights(trained.lightning_module)


def load_damaged(path, data):
    path.write_bytes(data)
    return LoggingModel.load_from_checkpoint(path)


def test_a_torn_file_is_an_error(saved, tmp_path):
    whole, _ = saved
    moments = random.Random(0)
    for length in [0, 1, 100, len(whole) - 1, *(moments.randrange(len(whole)) for _ in range(30))]:
        with pytest.raises(CheckpointCorruptedError, match=r"torn\.ckpt"):
            load_damaged(tmp_path / "torn.ckpt", whole[:length])


def test_a_flipped_bit_is_an_error_or_changes_nothing(saved, tmp_path):
    whole, right = saved
    moments = random.Random(1)
    found = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[moments.randrange(len(whole))] ^= 1 << moments.randrange(8)
        try:
            loaded = load_damaged(tmp_path / "flipped.ckpt", bytes(damaged))
        except CheckpointCorruptedError:
            found += 1
        else:  # the bit was in the padding between records, or in a date
            assert same_weights(loaded, right)
    assert found > 100


def test_a_flipped_bit_in_an_open_file_is_an_error(saved, tmp_path):
    whole, right = saved
    path = tmp_path / "file.ckpt"
    path.write_bytes(whole)
    with path.open("rb") as file:
        assert same_weights(LoggingModel.load_from_checkpoint(file), right)
    position = whole.index(right["layer.weight"].numpy().tobytes())
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    with path.open("rb") as file, pytest.raises(CheckpointCorruptedError, match=r"file\.ckpt.*damaged"):
        LoggingModel.load_from_checkpoint(file)


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_no_stage_takes_a_damaged_checkpoint(saved, tmp_path, stage):
    model = ValidatedModel() if stage == "validate" else LoggingModel()
    path = tmp_path / "half.ckpt"
    path.write_bytes(saved[0][: len(saved[0]) // 2])
    with pytest.raises(CheckpointCorruptedError, match=r"half\.ckpt"):
        getattr(quiet_trainer(tmp_path), stage)(model, rows(1), ckpt_path=path)


@pytest.mark.parametrize("fails", ["os.replace", "os.fsync", "torch.save"])
def test_a_save_that_fails_leaves_the_old_checkpoint(trained, tmp_path, monkeypatch, fails):
    path = tmp_path / "last.ckpt"
    trained.save_checkpoint(path)
    before = path.read_bytes()
    module, name = fails.split(".")
    original = getattr(importlib.import_module(module), name)

    def fail(*args):
        if name == "save":
            args[1].write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fails, fail)
    with pytest.raises(OSError, match="No space left"):
        trained.save_checkpoint(path)
    monkeypatch.setattr(fails, original)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    LoggingModel.load_from_checkpoint(path)


# -- what it holds ------------------------------------------------------------------------------------------


class Stateful(LoggingModel):
    """Everything that a checkpoint can hold."""

    def __init__(self, width=3):
        super().__init__()
        self.save_hyperparameters()

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]

    def on_save_checkpoint(self, checkpoint):
        checkpoint["mine"] = self.global_step

    def on_load_checkpoint(self, checkpoint):
        self.loaded = checkpoint["mine"]


class CountingData(pl.LightningDataModule):
    def __init__(self, size=2):
        super().__init__()
        self.save_hyperparameters()
        self.seen = 0

    def train_dataloader(self):
        return rows(2)

    def state_dict(self):
        return {"seen": 7}

    def load_state_dict(self, state_dict):
        self.seen = state_dict["seen"]


class BatchCounter(pl.Callback):
    def __init__(self, name):
        self.name, self.count = name, 0

    @property
    def state_key(self):
        return f"BatchCounter-{self.name}"

    def on_train_batch_end(self, *args):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


def test_keys_of_a_checkpoint(tmp_path):
    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=[BatchCounter("a")])
    trainer.fit(Stateful(), datamodule=CountingData())
    trainer.save_checkpoint(tmp_path / "all.ckpt")
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    everything = torch.load(tmp_path / "all.ckpt", weights_only=True)
    only = torch.load(tmp_path / "weights.ckpt", weights_only=True)
    training = {"optimizer_states", "lr_schedulers", "callbacks", "leyden"}
    assert everything.keys() - only.keys() == training
    assert {
        "epoch": 2, "global_step": 4, "hyper_parameters": {"width": 3}, "hparams_name": "kwargs",
        "datamodule_hyper_parameters": {"size": 2}, "CountingData": {"seen": 7}, "mine": 4,
    }.items() <= everything.items()  # fmt: skip
    assert everything["callbacks"] == {"BatchCounter-a": {"count": 4}}
    assert everything["optimizer_states"][0]["state"][0]["step"] == 4
    assert everything["lr_schedulers"][0]["last_epoch"] == 2
    assert everything["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"] == 2


def test_a_fit_takes_everything_back(tmp_path):
    first = quiet_trainer(tmp_path, callbacks=[BatchCounter("a"), BatchCounter("b")])
    first.fit(Stateful(), datamodule=CountingData())
    first.save_checkpoint(tmp_path / "one.ckpt")
    model, data, counters = Stateful(), CountingData(), [BatchCounter("b"), BatchCounter("a")]
    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=counters)
    trainer.fit(model, datamodule=data, ckpt_path=tmp_path / "one.ckpt")
    assert (trainer.current_epoch, trainer.global_step) == (2, 4)
    assert (model.loaded, data.seen, [c.count for c in counters]) == (2, 7, [4, 4])
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1 * 0.5**2
    assert trainer.optimizers[0].state_dict()["state"][0]["step"] == 4


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_takes_weights_and_no_training_state(tmp_path, stage):
    class Model(Stateful, ValidatedModel):
        pass

    first = quiet_trainer(tmp_path)
    first.fit(Model(), rows(2), rows(1))
    first.save_checkpoint(tmp_path / "one.ckpt")
    model, trainer = Model(), quiet_trainer(tmp_path)
    getattr(trainer, stage)(model, rows(1), ckpt_path=tmp_path / "one.ckpt")
    assert same_weights(model, first.lightning_module)
    assert model.loaded == 2
    assert (trainer.current_epoch, trainer.global_step) == (0, 0)


def test_states_of_callbacks_that_are_gone_are_named(tmp_path):
    first = quiet_trainer(tmp_path, callbacks=[BatchCounter("gone")])
    first.fit(LoggingModel(), rows(1))
    first.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="BatchCounter-gone"):
        quiet_trainer(tmp_path, max_epochs=2).fit(LoggingModel(), rows(1), ckpt_path=tmp_path / "a.ckpt")


def test_what_does_not_fit_is_refused(tmp_path):
    first = quiet_trainer(tmp_path)
    first.fit(LoggingModel(), rows(1))
    first.save_checkpoint(tmp_path / "a.ckpt")
    first.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)

    class Larger(LoggingModel):
        def __init__(self):
            super().__init__()
            self.more = nn.Linear(1, 1)

    with pytest.raises(RuntimeError, match=r"more\.weight"):
        quiet_trainer(tmp_path).fit(Larger(), rows(1), ckpt_path=tmp_path / "a.ckpt")
    with pytest.raises(MisconfigurationException, match="1 optimizers and 0 schedulers"):
        quiet_trainer(tmp_path).fit(_with_scheduler(), rows(1), ckpt_path=tmp_path / "a.ckpt")
    with pytest.raises(MisconfigurationException, match="weights alone"):
        quiet_trainer(tmp_path).fit(LoggingModel(), rows(1), ckpt_path=tmp_path / "weights.ckpt")
    larger = Larger()
    larger.strict_loading = False
    quiet_trainer(tmp_path).test(larger, rows(1), ckpt_path=tmp_path / "a.ckpt")
    assert torch.equal(larger.layer.weight, first.lightning_module.layer.weight)


def _with_scheduler():
    model = LoggingModel()

    def configure_optimizers():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    model.configure_optimizers = configure_optimizers
    return model


# -- where it is --------------------------------------------------------------------------------------------


def test_save_before_any_run_is_refused(tmp_path):
    with pytest.raises(AttributeError, match="fit"):
        quiet_trainer(tmp_path).save_checkpoint(tmp_path / "a.ckpt")


def test_directories_are_made_and_paths_may_be_text_or_urls(trained, tmp_path):
    for path in (tmp_path / "a" / "b" / "x.ckpt", str(tmp_path / "c" / "x.ckpt"), f"file://{tmp_path}/d/x.ckpt"):
        trained.save_checkpoint(path)
        assert same_weights(LoggingModel.load_from_checkpoint(path), trained.lightning_module)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.ckpt")) == [
        "a/b/x.ckpt", "c/x.ckpt", "d/x.ckpt",
    ]  # fmt: skip


def test_remote_file_systems(trained, tmp_path):
    path = "memory://runs/x.ckpt"
    trained.save_checkpoint(path)
    assert same_weights(LoggingModel.load_from_checkpoint(path), trained.lightning_module)
    model = LoggingModel()
    quiet_trainer(tmp_path).test(model, rows(1), ckpt_path=path)
    assert same_weights(model, trained.lightning_module)


class Keeper(pl.Callback):
    """Knows a best and a last checkpoint."""

    role = "checkpoint"

    def __init__(self, best="", last=""):
        self.best_model_path, self.last_model_path = str(best), str(last)


def test_best_last_and_hpc(tmp_path):
    paths, states = {}, {}
    for name in ("best", "last", "hpc_ckpt_3", "hpc_ckpt_12"):
        trainer = quiet_trainer(tmp_path)
        trainer.fit(LoggingModel(), rows(1))
        paths[name], states[name] = tmp_path / f"{name}.ckpt", weights(trainer.lightning_module)
        trainer.save_checkpoint(paths[name])
    trainer = quiet_trainer(tmp_path, callbacks=[Keeper(paths["best"], paths["last"])], enable_checkpointing=None)
    for given_path, name in (("best", "best"), ("last", "last"), ("hpc", "hpc_ckpt_12"), (paths["last"], "last")):
        model = LoggingModel()
        trainer.test(model, rows(1), ckpt_path=given_path)
        assert same_weights(model, states[name])
        assert trainer.ckpt_path == str(paths[name])
    trainer.test(dataloaders=rows(1))  # without a model: the best weights
    assert same_weights(trainer.lightning_module, states["best"])


@pytest.mark.parametrize(
    ("ckpt_path", "error", "words"),
    [
        ("none.ckpt", FileNotFoundError, "ckpt_path='none.ckpt'"),
        ("best", ValueError, "checkpoint callback"),
        ("hpc", ValueError, "hpc_ckpt_N"),
    ],
)
def test_a_checkpoint_that_is_not_there(tmp_path, ckpt_path, error, words):
    with pytest.raises(error, match=words):
        quiet_trainer(tmp_path).fit(LoggingModel(), rows(1), ckpt_path=ckpt_path)


def test_last_without_any_starts_anew_and_says_so(tmp_path):
    trainer = quiet_trainer(tmp_path)
    with pytest.warns(UserWarning, match='"last"'):
        trainer.fit(LoggingModel(), rows(2), ckpt_path="last")
    assert trainer.global_step == 2


# -- Lightning ----------------------------------------------------------------------------------------------


def lightning_twin(library):
    """The same model and callback for either framework; without random numbers, which Lightning does not keep."""

    class Model(library.LightningModule):
        def __init__(self, width=3):
            super().__init__()
            self.save_hyperparameters()
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 2)

        def training_step(self, batch, batch_idx):
            return nn.functional.mse_loss(self.layer(batch[0]), batch[1])

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    class SaveOnce(library.Callback):
        def __init__(self, path, hook, step):
            def save(trainer, *args):
                if trainer.global_step == step:
                    trainer.save_checkpoint(path)

            setattr(self, hook, save)

    return Model, SaveOnce


def train(name, root, hook="on_fit_end", step=-1, ckpt_path=None):
    with warnings.catch_warnings():
        if name != "leyden":
            warnings.simplefilter("ignore")
        library = importlib.import_module(name)
        Model, SaveOnce = lightning_twin(library)
        model = Model()
        trainer = library.Trainer(
            accelerator="cpu", devices=1, max_epochs=3, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=root,
            callbacks=[SaveOnce(root / "middle.ckpt", hook, step)],
        )  # fmt: skip
        trainer.fit(model, rows(5), ckpt_path=ckpt_path)
    return model, trainer


@pytest.mark.parametrize(
    ("hook", "step"), [("on_train_batch_end", 7), ("on_train_epoch_end", 10), ("on_train_end", 15)]
)
@pytest.mark.parametrize(("writer", "reader"), [("pytorch_lightning", "leyden"), ("leyden", "pytorch_lightning")])
def test_training_goes_on_in_the_other(tmp_path, writer, reader, hook, step):
    whole, _ = train(writer, tmp_path, hook, step)
    if reader != "leyden":  # it starts the loader over when it goes on in the middle of an epoch, with its own too
        (tmp_path / "own").mkdir()
        train(reader, tmp_path / "own", hook, step)
        whole, _ = train(reader, tmp_path, ckpt_path=tmp_path / "own" / "middle.ckpt")
    model, trainer = train(reader, tmp_path, ckpt_path=tmp_path / "middle.ckpt")
    assert (trainer.current_epoch, trainer.global_step) == (3, 15)
    assert same_weights(model, whole)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**15)

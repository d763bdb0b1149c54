"""Files that are no checkpoints, or unpack to more than they are, and several that write to one path."""

import copy
import io
import multiprocessing
import os
import pickle
import platform
import random
import struct
import sys
import threading
import tracemalloc
import types
import zipfile
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from leyden.plugins import TorchCheckpointIO
from leyden.utilities import MisconfigurationException
from leyden.utilities.exceptions import CheckpointCorruptedError
from leyden.utilities.storage import replacing
from leyden_testing.models import LoggingModel, rows
from leyden_testing.training import quiet_trainer, same_weights


def saved(value, **options):
    """The bytes that ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def run(path, function):
    """Give a file to ``load_from_checkpoint`` or to a Trainer."""
    if function == "load_from_checkpoint":
        return LoggingModel.load_from_checkpoint(path)
    return getattr(quiet_trainer(path.parent), function)(LoggingModel(), rows(1), ckpt_path=path)


EVERYWHERE = pytest.mark.parametrize("function", ["load_from_checkpoint", "fit", "test"])
LEGACY = {"_use_new_zipfile_serialization": False}
random.seed(0)
WEIGHTS = LoggingModel().state_dict()
WHOLE = {"state_dict": WEIGHTS, "hyper_parameters": {}}
NO_CHECKPOINTS = {
    "plain state_dict": saved(WEIGHTS),
    "legacy state_dict": saved(WEIGHTS, **LEGACY),
    "state_dict by another name": saved({"model": WEIGHTS}),
    "None": saved(None),
    "pickled None": pickle.dumps(None, protocol=2),
    "list": saved([1, 2]),
    "tensor": saved(torch.ones(2)),
    "whole module": saved(nn.Linear(2, 2)),
    "legacy module": saved(nn.Linear(2, 2), **LEGACY),
    "list of objects": saved({"model": nn.Linear(2, 2)}),
    "state_dict that is a list": saved({"state_dict": [1]}),
    "hyper_parameters that are a list": saved({**WHOLE, "hyper_parameters": [1]}),
    "callbacks that are a list": saved({**WHOLE, "callbacks": [1]}),
    "hparams_name that is a list": saved({**WHOLE, "hparams_name": [1]}),
    "empty": b"",
    "text": b"<!DOCTYPE html><html>404</html>",
    "one byte": b"\x80",
    "random": random.randbytes(5000),
    "random, begins as a pickle": b"\x80\x02" + random.randbytes(5000),
    "random, begins as a late pickle": b"\x80\x04\x95" + random.randbytes(5000),
    "random, begins as a zip": b"PK\x03\x04" + random.randbytes(5000),
    "cut": saved(WHOLE)[:-100],
    "legacy, cut": saved(WHOLE, **LEGACY)[:-10],
    "legacy, half": saved(WHOLE, **LEGACY)[:200],
}


@EVERYWHERE
@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")  # PyTorch's, for the random file
@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_said_in_a_sentence_without_advice_to_run_it(tmp_path, function, kind):
    path = tmp_path / "wrong.ckpt"
    path.write_bytes(NO_CHECKPOINTS[kind])
    with pytest.raises(
        (MisconfigurationException, CheckpointCorruptedError), match=r"wrong\.ckpt' is .*no checkpoint"
    ) as said:
        run(path, function)
    assert "weights_only" not in str(said.value)
    assert "\n" not in str(said.value)
    assert len(str(said.value)) < 400


@EVERYWHERE
@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
def test_for_a_checkpoint_that_holds_objects_the_way_to_load_them_is_said(tmp_path, function, options):
    path = tmp_path / "objects.ckpt"
    path.write_bytes(saved({**WHOLE, "hyper_parameters": {"x": nn.Linear(1, 1)}}, **options))
    with pytest.raises(RuntimeError, match=r"objects\.ckpt.*Linear.*weights_only=False only if you trust"):
        run(path, function)


def test_a_legacy_checkpoint_is_loaded(tmp_path):
    path, model = tmp_path / "legacy.ckpt", LoggingModel()
    path.write_bytes(saved({"state_dict": model.state_dict()}, **LEGACY))
    assert same_weights(LoggingModel.load_from_checkpoint(path), model)


def test_an_archive_of_something_else(tmp_path):
    path = tmp_path / "wrong.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes/a.txt", "text")
    with pytest.raises(CheckpointCorruptedError, match="no checkpoint"):
        TorchCheckpointIO().load_checkpoint(str(path))


@pytest.mark.parametrize(
    ("name", "said"),
    [("../a.txt", "file in archive is not in a subdirectory"), ("archive/constants.pkl", "TorchScript")],
)
def test_an_archive_with_more_in_it_is_said_to_be_so_without_advice_to_run_it(tmp_path, name, said):
    path = tmp_path / "wrong.ckpt"
    path.write_bytes(saved(WHOLE))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"")
    with pytest.raises(CheckpointCorruptedError, match=f"no checkpoint: .*{said}") as error:
        LoggingModel.load_from_checkpoint(path)
    assert "False" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_an_error_that_is_about_the_device_stays_as_it_is(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(saved(WHOLE))
    with pytest.raises(RuntimeError, match="map_location") as said:
        TorchCheckpointIO().load_checkpoint(str(path), "cuda")
    assert not isinstance(said.value, CheckpointCorruptedError)


def test_an_error_that_is_about_the_code_that_a_trusted_file_names_stays_as_it_is(tmp_path, monkeypatch):
    module = types.ModuleType("gone")
    module.Thing = type("Thing", (), {"__module__": "gone"})
    monkeypatch.setitem(sys.modules, "gone", module)
    (tmp_path / "a.ckpt").write_bytes(saved({**WHOLE, "mine": module.Thing()}))
    monkeypatch.delitem(sys.modules, "gone")
    with pytest.raises(ModuleNotFoundError, match="gone"):
        LoggingModel.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=False)


@EVERYWHERE
def test_a_directory_is_said_to_be_one(tmp_path, function):
    (tmp_path / "run.ckpt").mkdir()
    with pytest.raises(MisconfigurationException, match=r"run\.ckpt' is a directory: it is no checkpoint that an inst"):
        run(tmp_path / "run.ckpt", function)


# -- bounds are checked before anything is unpacked ---------------------------------------------------------


def with_record(path, kind, size):
    """A checkpoint whose record of weights claims or unpacks to this many bytes."""
    with zipfile.ZipFile(io.BytesIO(saved(WHOLE))) as good, zipfile.ZipFile(path, "w") as bad:
        for info in good.infolist():
            if kind == "packed" and info.filename.endswith("data/0"):
                bad.writestr(info.filename, bytes(size), compress_type=zipfile.ZIP_DEFLATED)
            else:
                bad.writestr(info.filename, good.read(info))
        if kind == "doubled":  # many entries of the directory have the same bytes of the file
            bad.writestr("archive/data/9", bytes(size // 100))
            bad.filelist += [copy.copy(bad.filelist[-1]) for _ in range(100)]
    if kind == "claimed":
        content = bytearray(path.read_bytes())
        entry = content.index(b"PK\x01\x02")
        content[entry + 20 : entry + 28] = struct.pack("<II", size, size)
        path.write_bytes(content)


@pytest.mark.parametrize("kind", ["packed", "doubled", "claimed"])
def test_a_file_that_unpacks_to_more_than_it_is_costs_nothing(tmp_path, kind):
    path = tmp_path / "bomb.ckpt"
    with_record(path, kind, 100_000_000)
    tracemalloc.start()
    with pytest.raises(CheckpointCorruptedError, match=r"its records are packed, as PyTorch's never are"):
        LoggingModel.load_from_checkpoint(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_legacy_file_that_claims_more_than_it_has_costs_nothing(tmp_path):
    path = tmp_path / "bomb.ckpt"
    content = saved({"state_dict": {"weight": torch.zeros(300)}}, **LEGACY)
    number, huge = struct.pack("<cH", b"M", 300), struct.pack("<ci", b"J", 2**31 - 1)
    assert content.count(number) >= 2
    path.write_bytes(content.replace(number, huge))
    with pytest.raises(CheckpointCorruptedError, match=r"no checkpoint: (unexpected EOF|storage has wrong|\[enforce)"):
        LoggingModel.load_from_checkpoint(path)


class Filling:
    """Pickled as a bytearray of this size."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return bytearray, self.arguments


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
def test_a_pickle_that_makes_memory_of_a_number_is_refused(tmp_path, options):
    path, number = tmp_path / "bomb.ckpt", (100_000_000,)
    for value in (Filling(*number), [Filling("abc", "latin-1"), Filling(*number)], [number, Filling(*number)]):
        path.write_bytes(saved({**WHOLE, "mine": value}, **options))
        tracemalloc.start()
        with pytest.raises(CheckpointCorruptedError, match="it makes a bytearray of something else"):
            LoggingModel.load_from_checkpoint(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 10_000_000


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
def test_what_a_bytearray_is_otherwise_made_of_is_loaded(tmp_path, options):
    path, value = (
        tmp_path / "a.ckpt",
        [bytearray(), bytearray(b"abc"), bytearray(), bytearray(b"\xff"), "bytearray", b"x"],
    )
    path.write_bytes(saved({**WHOLE, "mine": value}, **options))
    assert TorchCheckpointIO().load_checkpoint(str(path))["mine"] == value


# -- removing -----------------------------------------------------------------------------------------------


def test_of_a_remote_file_system_only_files_are_removed_and_names_are_no_patterns():
    fsspec = pytest.importorskip("fsspec")
    memory, remove = fsspec.filesystem("memory"), TorchCheckpointIO().remove_checkpoint
    memory.pipe({"/shelf/a.ckpt": b"", "/shelf/b.ckpt": b"", "/shelf/deep/c.ckpt": b""})
    for path in ("memory://shelf", "memory://shelf/*.ckpt", "memory://shelf/none.ckpt", "memory://shelf/deep"):
        remove(path)
    assert len(memory.find("/shelf")) == 3
    remove("memory://shelf/a.ckpt")
    assert memory.find("/shelf") == ["/shelf/b.ckpt", "/shelf/deep/c.ckpt"]


# -- several that write to one path -------------------------------------------------------------------------

FORKING = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # the child uses no thread's locks


def write(path, letter, opened, go_on, end=False):
    """Write a text in two halves, and wait in between; or die there."""
    with replacing(path, "w") as file:
        file.write(letter * 1000)
        file.flush()
        opened.set()
        assert go_on.wait(60)
        if end:
            os._exit(0)
        file.write(letter * 1000)


@FORKING
@pytest.mark.parametrize("other", [threading.Thread, multiprocessing.get_context("fork").Process])
def test_of_two_that_write_to_one_path_each_leaves_a_whole_file(tmp_path, other):
    path, events = tmp_path / "last.ckpt", multiprocessing.get_context("fork")
    opened, go_on, now = events.Event(), events.Event(), threading.Event()
    now.set()
    slow = other(target=write, args=(path, "a", opened, go_on))
    slow.start()
    assert opened.wait(60)
    write(path, "b", threading.Event(), now)
    assert path.read_text() == "b" * 2000
    go_on.set()
    slow.join(60)
    assert path.read_text() == "a" * 2000
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@FORKING
def test_what_killed_processes_were_writing_is_removed_by_the_next_to_write_there(tmp_path):
    events = multiprocessing.get_context("fork")
    for number in range(3):
        go_on = events.Event()
        go_on.set()
        killed = events.Process(target=write, args=(tmp_path / f"{number}.ckpt", "a", events.Event(), go_on, True))
        killed.start()
        killed.join(60)
        assert len(list(tmp_path.iterdir())) == 1
    others = {f".leyden-{killed.pid}-1@{platform.node()}{end}" for end in ("-1.part", ".org.part", ".part.txt")}
    others |= {f".leyden-{killed.pid}-1@a-{platform.node()}.part", f".leyden-x-1@{platform.node()}.part"}
    for name in others:  # of machines of which nothing can be known, or no names of ours
        (tmp_path / name).touch()
    with replacing(tmp_path / "a.ckpt", "w") as file:
        file.write("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.ckpt", *others}


def test_a_save_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.ckpt", "w") as file:
        file.write(str(1 / 0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [200, 250])
def test_a_long_name_is_no_hindrance(tmp_path, length):
    path = tmp_path / f"{'x' * length}.ckpt"
    with nullcontext() if length < 251 else pytest.raises(OSError, match="too long"):
        TorchCheckpointIO().save_checkpoint({"epoch": 1}, str(path))
        assert TorchCheckpointIO().load_checkpoint(str(path)) == {"epoch": 1}

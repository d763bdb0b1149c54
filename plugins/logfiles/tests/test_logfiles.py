"""Loggers with files: their directories and versions, and files of hyperparameters."""

from __future__ import annotations

import os
from argparse import Namespace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import leyden as pl
from leyden.demos import BoringModel
from leyden_logfiles import RunDirectoryLogger, load_hparams, save_hparams
from leyden_logfiles.hparams import multiplies


class Lines(RunDirectoryLogger):
    """Writes each logging call as a line of text."""

    def __init__(self, save_dir: Any, name: str | None = "runs", version: Any = None, prefix: str = "") -> None:
        super().__init__(save_dir, name, version, prefix)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        with Path(self.log_dir, "lines").open("a") as file:
            print(step, dict(self._with_prefix(metrics)), file=file)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        save_hparams(f"{self.log_dir}/{self.NAME_HPARAMS_FILE}", vars(params) if type(params) is Namespace else params)


# -- the directory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ({}, "runs/version_0"),
        ({"name": None}, "version_0"),
        ({"name": "", "version": 2}, "version_2"),
        ({"version": "first"}, "runs/first"),
        ({"name": "seen"}, "seen/version_12"),
    ],
)
def test_a_run_has_a_directory_of_its_own(tmp_path, arguments, place):
    for name in ("version_0", "version_11", "version_x", "other"):
        (tmp_path / "seen" / name).mkdir(parents=True)
    (tmp_path / "seen" / "version_40").touch()  # a file, so it does not count
    logger = Lines(tmp_path, **arguments)
    assert Path(logger.log_dir) == tmp_path / place
    assert Path(logger.root_dir) == (tmp_path / place).parent
    assert Path(logger.save_dir) == tmp_path
    assert logger.name == (arguments.get("name", "runs") or "")


def test_the_version_is_chosen_once_and_nothing_is_made_before_something_is_written(tmp_path):
    logger = Lines(tmp_path)
    assert logger.version == 0
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs" / "version_0").mkdir(parents=True)
    assert (logger.version, Lines(tmp_path).version) == (0, 1)


def test_the_home_directory_and_variables_are_put_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TEAM", "a")
    assert Lines(os.path.join("~", "$TEAM")).save_dir == str(tmp_path / "a")


def test_a_process_writes_where_it_is_told_that_rank_0_writes(tmp_path):
    logger = Lines(tmp_path)
    logger.take_version(7)
    assert (logger.version, Path(logger.log_dir).name) == (7, "version_7")


def test_a_logger_is_told_the_version_of_rank_0_and_one_without_files_keeps_its_own(tmp_path):
    class Cloud(pl.loggers.DummyLogger):
        version = "of the service"

    cloud = Cloud()
    cloud.take_version("another")
    assert cloud.version == "of the service"


def test_a_trainer_logs_and_saves_there(tmp_path):
    class Model(BoringModel):
        def __init__(self, rate: float = 0.5) -> None:
            super().__init__()
            self.save_hyperparameters()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("loss", 1.0)
            return super().training_step(batch, batch_idx)

    options: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_steps=1, log_every_n_steps=1, logger=Lines(tmp_path, prefix="mine"), **options)
    trainer.fit(Model())
    run = tmp_path / "runs" / "version_0"
    assert Path(trainer.log_dir) == run
    assert {path.name for path in run.iterdir()} == {"lines", "hparams.yaml", "checkpoints"}
    assert "'mine-loss': 1.0" in (run / "lines").read_text()
    assert yaml.safe_load((run / "hparams.yaml").read_text()) == {"rate": 0.5}


def test_its_names_are_in_the_window_of_loggers():
    from leyden import loggers

    names = ("RunDirectoryLogger", "load_hparams", "save_hparams")
    assert [getattr(loggers, name) for name in names] == [RunDirectoryLogger, load_hparams, save_hparams]


# -- files of hyperparameters -----------------------------------------------------------------------------


class Colour(Enum):
    RED = 1


def test_arrays_come_back_as_numbers(tmp_path):
    path, big = tmp_path / "hparams.yaml", torch.zeros(200, 100)
    values = {"weights": torch.tensor([0.5, 2.0]), "table": np.arange(4).reshape(2, 2), "none": torch.zeros(0, 3)}
    save_hparams(str(path), {**values, "nested": [{"scale": nn.Parameter(torch.ones(1))}], "one": torch.tensor(3)})
    expected = {"weights": [0.5, 2.0], "table": [[0, 1], [2, 3]], "none": [], "nested": [{"scale": [1.0]}], "one": 3}
    assert load_hparams(path) == expected
    with pytest.warns(UserWarning, match=r"as text, .*: big \(Tensor\), meta \(Tensor\), sparse \(Tensor\)\. Leave"):
        save_hparams(str(path), {"big": big, "meta": big.to("meta"), "sparse": torch.eye(2).to_sparse()})


def test_what_has_no_plain_form_is_kept_as_text_and_named(tmp_path):
    path = tmp_path / "run" / "hparams.yaml"
    values = {"plain": [1, "a", None], "set": {2, 1}, "path": Path("data"), "nested": {"colour": Colour.RED, 3: (4,)}}
    with pytest.warns(UserWarning, match=r"as text, .*: kind \(type\), inside\[0\]\.maker \(type\)\. Leave"):
        save_hparams(str(path), {**values, "kind": int, "inside": [{"maker": dict}]})
    assert yaml.safe_load(path.read_text()) == {
        "plain": [1, "a", None],
        "set": [1, 2],
        "path": "data",
        "nested": {"colour": "RED", 3: [4]},
        "kind": str(int),
        "inside": [{"maker": str(dict)}],
    }


class Sized(BoringModel):
    def __init__(self, width: int, depth: int = 2, rate: float = 0.1, **others: Any) -> None:
        super().__init__()
        self.save_hyperparameters()


@pytest.fixture
def checkpoint(tmp_path):
    """The path of a checkpoint of a model whose ``width`` is 3."""
    model, path = Sized(3), tmp_path / "saved.ckpt"
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, path)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hparams.yaml", "width: 9\nrate: 0.5\nlayers: [1, 2]\nnote: as it is\n"),
        ("hparams.yml", "{width: 9, rate: 0.5, layers: [1, 2], note: as it is}"),
        ("hparams.csv", 'key,value\nwidth,9\nrate,0.5\nlayers,"[1, 2]"\nnote,as it is\n'),
    ],
)
def test_a_checkpoint_is_loaded_with_the_hyperparameters_of_a_file(checkpoint, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    loaded = Sized.load_from_checkpoint(checkpoint, hparams_file=tmp_path / name)
    assert dict(loaded.hparams) == {"width": 9, "depth": 2, "rate": 0.5, "layers": [1, 2], "note": "as it is"}


def test_the_file_may_be_behind_a_url(checkpoint, tmp_path):
    url = f"memory://{tmp_path.name}/hparams.yaml"  # where a logger with a URL would put it
    save_hparams(url, {"width": 9})
    assert Sized.load_from_checkpoint(checkpoint, hparams_file=url).hparams["width"] == 9
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        Sized.load_from_checkpoint(checkpoint, hparams_file=f"memory://{tmp_path.name}/none.yaml")


@pytest.mark.parametrize(("name", "error"), [("none.yaml", FileNotFoundError), ("hparams.txt", ValueError)])
def test_files_that_can_not_be_read_are_named(checkpoint, tmp_path, name, error):
    (tmp_path / "hparams.txt").write_text("width: 9")
    with pytest.raises(error, match=name):
        Sized.load_from_checkpoint(checkpoint, hparams_file=tmp_path / name)


def laughs(levels=12):
    """YAML of references that stand for 9 to the power of 12 texts, and what it would be as data."""
    lists = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lists += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(["width: 2", *lists])


NO_HPARAMS = {
    "laughs.yaml": (laughs(), "its references .* make very many values of few"),
    "merged.yaml": (laughs().replace("[", "{<<: [").replace("]", "]}").replace("x", "{x: 1}"), "references"),
    "itself.yaml": ("width: &a [1, *a]", "refer to themselves"),
    "deep.yaml": ("width: " + "[" * 5000, "recursion"),
    "list.yaml": ("- 1\n- 2\n", "it holds a list, and no mapping"),
    "broken.yaml": ("width: [1, 2\nx: }{\n", "flow sequence"),
    "tag.yaml": ("width: !!python/object/apply:os.mkdir ['made']", "could not determine a constructor"),
    "bytes.yaml": (b"\xff\xfe\x00", "utf-8"),
    "control.yaml": (b"width: \x01", "special characters"),
    "bytes.csv": (b"key,value\n\xff,1", "utf-8"),
    "columns.csv": ("a,b\nwidth,2\n", "no columns"),
    "empty.csv": ("", "no columns"),
    "field.csv": ("key,value\nwidth," + "1" * 200_000, "field larger"),
}


@pytest.mark.parametrize("name", NO_HPARAMS)
def test_what_holds_no_hyperparameters_is_said_in_a_sentence(checkpoint, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    text, said = NO_HPARAMS[name]
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(
        ValueError, match=rf"^hparams_file='.*{name}' can't be read as hyperparameters: .*{said}"
    ) as error:
        Sized.load_from_checkpoint(checkpoint, hparams_file=tmp_path / name)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("value", ["-" * 5000 + "1", "(" * 5000, "[" * 50, "{[]: 1}", "1 + 'a'", "9" * 5000, "\0", ""])
def test_text_of_a_table_that_is_no_literal_stays_text(tmp_path, value):
    path = tmp_path / "hparams.csv"
    path.write_text(f'key,value\nwidth,"{value}"\n')
    assert load_hparams(path) == {"width": value}


def test_references_within_reason_are_read_and_an_empty_file_has_none(tmp_path):
    path = tmp_path / "hparams.yaml"
    path.write_text("base: &base {lr: 0.1, sizes: &s [1, 2]}\nencoder: {<<: *base, width: 2}\nsizes: *s\n")
    sizes = [1, 2]
    assert load_hparams(path) == {
        "base": {"lr": 0.1, "sizes": sizes}, "encoder": {"lr": 0.1, "sizes": sizes, "width": 2}, "sizes": sizes,
    }  # fmt: skip
    path.write_text("# nothing\n")
    assert load_hparams(path) == {}


def test_much_that_is_written_out_does_not_multiply():
    assert not multiplies({"weights": [0.5] * 200_000, "sizes": [[1, 2]] * 30_000})
    assert multiplies({"weights": [[0.5] * 400] * 400})


def test_values_that_are_shared_are_written_once(tmp_path):
    value: Any = ["x"] * 9
    for _ in range(12):
        value = [value] * 9
    itself: dict[str, Any] = {"name": "itself"}
    itself["again"] = itself
    save_hparams(str(tmp_path / "hparams.yaml"), {"laughs": value, "again": value, "itself": itself})
    assert (tmp_path / "hparams.yaml").stat().st_size < 10_000
    loaded = yaml.safe_load((tmp_path / "hparams.yaml").read_text())
    assert loaded["laughs"] is loaded["again"]
    assert loaded["laughs"][0] is loaded["laughs"][8]
    assert loaded["itself"]["name"] == "itself"


def test_a_run_goes_on_in_an_earlier_one_that_the_user_has_not_ruled_out(tmp_path):
    for name in ("version_0", "version_11", "version_x"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    for version in (5, 11, "mine"):
        assert Lines(tmp_path, version=version).earlier_versions() == []
    logger = Lines(tmp_path)
    assert logger.earlier_versions() == [11, 0]
    for version in (5, "../elsewhere", None, [0]):  # a file may say anything
        logger.go_on(version)
        assert (logger.version, logger.goes_on) == (12, False)
    logger.go_on(0)
    assert (logger.version, logger.goes_on) == (0, True)
    logger.log_metrics({"loss": 1.0})
    logger.go_on(11)
    assert logger.version == 0

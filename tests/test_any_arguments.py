"""Whatever is given to a Trainer, it runs as it was asked to, or refuses in a sentence before it reads any data.

A case is drawn at random: arguments, model, loaders, calls. ``expected_run`` says what is wrong with it, and if
nothing is, how many batches, steps, epochs and hook calls it comes to. To hunt for more:
``LEYDEN_HUNT=5000 pytest tests/test_any_arguments.py``.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import leyden as pl
from leyden.plugin_system.hooks import OBSERVATION

from .any_case import QUIET, RIGHT, ROOTS, WRONG, cases
from .any_model import AnyModel, loaders, model
from .expected_run import (
    ANOMALY,
    PREFIX,
    STEP,
    Case,
    Fit,
    Standing,
    faults_before_data,
    faults_in_data,
    faults_of_trainer,
    hooks_of_a_pass,
    passes,
    settled,
    train_batches,
)  # fmt: skip

HUNT = int(os.environ.get("LEYDEN_HUNT", "0"))
PROFILE = settings(
    max_examples=HUNT or 300,
    derandomize=not HUNT,  # else the same examples in every run
    database=None,
    deadline=None,
    print_blob=bool(HUNT),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
STAGES = {"fit": "fit", "validate": "validate", "test": "test", "predict": "predict"}
COUNTED = [
    name
    for name in OBSERVATION
    if re.match(r"on_(train|validation|test|predict|sanity_check)_((epoch|batch)_)?(start|end)$", name)
]


class Counting(pl.Callback):
    """Counts how often each hook is called."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()


def _counting(name: str) -> Any:
    return lambda self, trainer, pl_module, *args: self.calls.update([name])


for hook in COUNTED:
    setattr(Counting, hook, _counting(hook))


class StopAfter(pl.Callback):
    """Asks the run to stop after so many training batches."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.batches -= 1
        if self.batches <= 0:
            trainer.should_stop = True


def extra_callback(name: str) -> Any:
    """A callback that changes nothing."""
    from leyden import callbacks

    if name == "early":
        return callbacks.EarlyStopping("loss", patience=99)
    kinds = {"rates": "LearningRateMonitor", "checkpoint": "ModelCheckpoint", "timer": "Timer"}
    return getattr(callbacks, kinds.get(name, "LambdaCallback"))()


# -- one case -------------------------------------------------------------------------------------------------


@contextmanager
def undisturbed() -> Iterator[None]:
    """A block whose warnings, but for what Leyden tells its users, are errors, and which leaves PyTorch as it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", UserWarning)
        warnings.filterwarnings("ignore", module="leyden")
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            assert torch.get_default_dtype() == torch.float32
            assert not torch.is_anomaly_enabled()


def trainer_of(case: Case, root: Path, counting: Counting) -> pl.Trainer:
    """The Trainer, if it lets itself be made."""
    arguments = {**QUIET, "default_root_dir": "str", **case.arguments}
    if (place := arguments["default_root_dir"]) in [*ROOTS, "a file"]:
        (root / "file").touch()
        places = {"Path": root, "new": root / "a" / "new one", "empty": "", "None": None, "a file": root / "file"}
        arguments["default_root_dir"] = places.get(place, str(root))
    if "callbacks" not in case.wrong:
        stop = [StopAfter(case.stop_after)] if case.stop_after is not None else []
        arguments["callbacks"] = [counting, *stop, *map(extra_callback, case.callbacks)]
    return pl.Trainer(**arguments)


def check_sentence(error: Exception, faults: list[str]) -> None:
    """A refusal is a sentence of Leyden's own that names what is wrong."""
    text = str(error)
    assert isinstance(error, (ValueError, TypeError, RuntimeError, FileNotFoundError)), repr(error)
    raised_in = list(traceback.walk_tb(error.__traceback__))[-1][0].f_globals["__name__"]
    assert raised_in.partition(".")[0].startswith("leyden") or ANOMALY in text, f"{error!r} comes from {raised_in}"
    assert text[:1].strip()
    assert text[-1] in ".?!", text
    assert any(re.search(fault, text, re.DOTALL) for fault in faults), f"{error!r} is none of {faults}"


def run_all(case: Case, root: Path) -> None:
    """Do what the case says and compare each run with what it should come to."""
    counting, faults = Counting(), faults_of_trainer(case)
    try:
        trainer = trainer_of(case, root, counting)
    except Exception as error:
        check_sentence(error, faults)
        return
    assert not faults, faults
    reads: Counter[str] = Counter()
    given = {stage: loaders(data, reads, stage) for stage, data in case.data.items()}
    hooks = {f"{stage}_dataloader": _giving(loader, reads, stage) for stage, loader in given.items()}
    module = model(case.shape, hooks if case.source in ("module", "mixed") else {})
    standing = Standing()
    for call in case.calls:
        counting.calls.clear()
        reads.clear()
        if not run_one(case, call, trainer, module, given, hooks, reads, counting, standing):
            return


def _giving(loader: Any, reads: Counter[str], stage: str) -> Any:
    def hook(self: Any) -> Any:
        reads[f"{stage} hook"] += 1
        return loader

    return hook


def run_one(
    case: Case, call: str, trainer: pl.Trainer, module: AnyModel, given: dict[str, Any], hooks: dict[str, Any],
    reads: Counter[str], counting: Counting, standing: Standing,
) -> bool:  # fmt: skip
    """One call; returns whether it ran."""
    before = {name: part.training for name, part in module.named_modules()}
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    faults = faults_before_data(case, call, standing)
    arguments: dict[str, Any] = {"ckpt_path": case.ckpt_path}
    if case.source == "passed":
        names = ("train", "val") if call == "fit" else (PREFIX[call],)
        keys = [f"{name}_dataloaders" for name in names] if call == "fit" else ["dataloaders"]
        arguments.update({key: given.get(name) for key, name in zip(keys, names, strict=True)})
    elif case.source == "datamodule":
        arguments["datamodule"] = type("Data", (pl.LightningDataModule,), hooks)()
    elif case.source == "mixed" and call == "fit":
        arguments["train_dataloaders"] = given.get("train")
    try:
        result = getattr(trainer, call)(module, **arguments)
    except Exception as error:
        # hooks are asked for the training loaders after the sanity check, as by Lightning
        sanity_first = call == "fit" and case.source not in ("passed", "mixed")
        check_sentence(error, faults + (faults_in_data(case, call) if sanity_first or not faults else []))
        assert trainer.state.stage is None
        if faults:
            assert not any(reads[stage] for stage in (["train"] if sanity_first else PREFIX.values())), reads
        return False
    assert not faults, faults
    assert trainer.state.finished
    assert {name: part.training for name, part in module.named_modules()} == before
    assert all(math.isfinite(value) for value in trainer.callback_metrics.values())
    if call == "fit":
        check_fit(case, trainer, module, reads, counting.calls, standing, weights)
    else:
        check_evaluation(case, call, trainer, module, result, counting.calls)
    return True


def check_fit(
    case: Case, trainer: pl.Trainer, module: AnyModel, reads: Counter[str], calls: Counter[str], standing: Standing,
    weights: dict[str, Any],
) -> None:  # fmt: skip
    """Counters, hooks, loaders and weights after a fit are those that were worked out."""
    values, steps = settled(case.arguments), standing.steps
    fit = Fit(case, standing)
    fit.run()
    assert calls == fit.calls, (calls - fit.calls, fit.calls - calls)
    assert (trainer.current_epoch, trainer.global_step) == (standing.epochs, standing.steps)
    if values["limit_train_batches"] != 0:
        assert trainer.num_training_batches == train_batches(case, known=True)
        every = values["reload_dataloaders_every_n_epochs"]
        asked = 1 + (max(fit.epochs - 1, 0) // every if every else 0)
        if case.source in ("module", "datamodule") and len(case.calls) == 1:
            assert reads["train hook"] == asked
    else:
        assert reads["train hook"] == 0
    if standing.steps == steps:
        assert all(torch.equal(value, weights[name].to(value.dtype)) for name, value in module.state_dict().items())
    assert module.modes.pop("training_step", {(True, False, True)}) == {(True, False, True)}
    assert module.modes.pop("validation_step", {(False, False, False)}) == {(False, False, False)}
    assert not module.modes


def check_evaluation(
    case: Case, call: str, trainer: pl.Trainer, module: AnyModel, result: Any, calls: Counter[str]
) -> None:
    """One pass over all batches, whose results are numbers, or none at all."""
    any_pass, batches = passes(case, PREFIX[call])
    name = STEP[call].removesuffix("_step")
    assert calls == (hooks_of_a_pass(name, batches) if any_pass else Counter())
    count = len(case.data[PREFIX[call]].kinds)
    if call == "predict":
        assert result is None if not any_pass else len(result) == (batches if count == 1 else count)
    elif any_pass:
        assert 1 <= len(result) <= count
        assert all(math.isfinite(value) for output in result for value in output.values())
    else:
        assert result == []
    assert module.modes.pop(STEP[call], {(False, False, False)}) == {(False, False, False)}


# -- the tests ------------------------------------------------------------------------------------------------


@PROFILE
@given(case=cases())
def test_any_case_runs_as_asked_or_is_refused_in_a_sentence(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with undisturbed():
        run_all(case, tmp_path)


@PROFILE
@given(case=cases(right=True))
def test_fits_with_nothing_that_is_wrong_by_itself(case, tmp_path, monkeypatch):
    """Most of them run, so that every argument that counts something meets every other one."""
    monkeypatch.chdir(tmp_path)
    with undisturbed():
        run_all(case, tmp_path)


def test_every_argument_is_tried():
    """All of Leyden's, which are Lightning's but for ``model_registry``, a place in its makers' cloud."""
    assert set(inspect.signature(pl.Trainer).parameters) == set(RIGHT) == set(WRONG)
    lightning = pytest.importorskip("pytorch_lightning")
    assert set(inspect.signature(lightning.Trainer).parameters) == set(RIGHT) | {"model_registry"}

"""Runs one scenario in pytorch-lightning and in Leyden and compares everything that a user can see.

A scenario is a test function marked with :func:`parity`. It takes ``pl`` (one of the two frameworks) and
``lab``, which gives it a small model, data and a Trainer, and writes down what happens: every hook with
its arguments and the Trainer's counters, what the logger received, metrics, weights, files, and whatever
the scenario notes itself. Both records are lists of lines; where they differ the test fails with the diff.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import inspect
import os
import random
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leyden_testing.models import rows
from leyden_testing.training import quiet_trainer

from .parity_hooks import CALLBACK_HOOKS, DATAMODULE_HOOKS, MODULE_HOOKS, OVERRIDE_POINTS, record_methods

TRAINER_ATTRIBUTES = [
    "current_epoch",
    "global_step",
    "should_stop",
    "interrupted",
    "num_training_batches",
    "num_sanity_val_batches",
    "num_val_batches",
    "num_test_batches",
    "num_predict_batches",
    "callback_metrics",
    "logged_metrics",
    "progress_bar_metrics",
]


def show(value: Any) -> str:
    """A value as text that is equal where the values are equal to the last bit."""
    if isinstance(value, Tensor):
        if value.numel() <= 8:
            return f"tensor({value.tolist()!r}, {value.dtype})"
        digest = hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()[:12]
        return f"tensor({list(value.shape)}, {value.dtype}, sha256 {digest}, first {value.flatten()[0].item()!r})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {show(value[key])}" for key in sorted(value, key=str)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(show, value)) + "]"
    if isinstance(value, Enum):
        return str(value.value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    return type(value).__name__


def show_argument(name: str, value: Any) -> str:
    """A hook's argument: its kind, and its value where it is short."""
    inner = getattr(value, "optimizer", None)
    if inner is not None and hasattr(value, "zero_grad"):
        return type(inner).__name__  # each framework wraps optimizers in a class of its own
    if name == "checkpoint":
        return "dict"  # what a checkpoint holds is compared where one is loaded
    if isinstance(value, dict):
        return f"dict({', '.join(map(str, value))})"
    if value is None or isinstance(value, (bool, int, str, torch.device)):
        return f"{name}={value.value if isinstance(value, Enum) else value}"
    if callable(value) and not isinstance(value, nn.Module):
        return "callable"
    return type(value).__name__


class Lab:
    """What a scenario needs of one framework, and the record of what it did.

    Attributes:
        pl: The framework.
        tmp_path: An empty directory, ``default_root_dir`` of the Trainers.
        Model: A LightningModule that a scenario subclasses or takes as it is.
        DataModule: A LightningDataModule with four loaders.
        logger: The logger that the Trainers have unless they are given another.
    """

    def __init__(self, pl: ModuleType, tmp_path: Path) -> None:
        self.pl = pl
        self.tmp_path = tmp_path
        self.lines: list[str] = []
        self.differences: list[str] = []
        self.trainers: list[Any] = []
        self.modules: list[nn.Module] = []
        self.Model = make_model_class(pl)
        self.DataModule = make_datamodule_class(pl)
        self.logger = self.make_logger("run")

    def note(self, name: str, value: Any) -> None:
        """Write down something that both frameworks must agree on."""
        self.lines.append(f"{name}: {show(value)}")

    def differs(self, pattern: str, reason: str) -> None:
        """Leave out lines that match ``pattern``: there the two differ on purpose, for ``reason``."""
        assert reason
        self.differences.append(pattern)

    def model(self, cls: type | None = None, *args: Any, points: Sequence[str] = (), **options: Any) -> Any:
        """An instance of ``cls`` whose hooks are recorded; override points only where ``cls`` overrides them.

        Args:
            cls: The model's class; :attr:`Model` by default.
            *args: Arguments of the class.
            points: Names of override points to record though ``cls`` leaves them as they are.
            **options: Arguments of the class.
        """
        cls = cls or self.Model
        changed = [p for p in OVERRIDE_POINTS if getattr(cls, p, None) is not getattr(self.pl.LightningModule, p, None)]
        module = self._recording(cls, [*MODULE_HOOKS, *changed, *points])(*args, **options)
        self.modules.append(module)
        return module

    def datamodule(self, cls: type | None = None, *args: Any, **options: Any) -> Any:
        """An instance of ``cls`` (:attr:`DataModule` by default) whose hooks are recorded."""
        return self._recording(cls or self.DataModule, DATAMODULE_HOOKS)(*args, **options)

    def callback(self, cls: type | None = None, *args: Any, **options: Any) -> Any:
        """A callback whose hooks are recorded."""
        return self._recording(cls or self.pl.Callback, CALLBACK_HOOKS)(*args, **options)

    def trainer(self, **options: Any) -> Any:
        """A Trainer with a recording callback and logger that is quiet and saves nothing unless told to."""
        defaults = {"devices": 1, "max_epochs": 2, "logger": self.logger, "log_every_n_steps": 1}
        options["callbacks"] = [self.callback(), *options.get("callbacks", [])]
        trainer = quiet_trainer(self.tmp_path, self.pl.Trainer, **{**defaults, **options})
        self.trainers.append(trainer)
        return trainer

    @contextmanager
    def raises(self, expected: str) -> Iterator[None]:
        """The block must raise the exception named ``expected``; in Leyden a subclass of its own will do."""
        try:
            yield
        except BaseException as error:
            names = [cls.__name__ for cls in type(error).__mro__]
            if expected not in (names if self.pl.__name__ == "leyden" else names[:1]):
                raise
            self.lines.append(f"raised: {expected}")
        else:
            raise AssertionError(f"{self.pl.__name__} raised nothing where {expected} was expected")

    @contextmanager
    def refuses(self, expected: str) -> Iterator[None]:
        """As :meth:`raises`, for what can never work: how far a run gets until then is not compared.

        Leyden checks a configuration before hooks run, so that data is not prepared in vain.
        """
        before = len(self.lines)
        with self.raises(expected):
            yield
        del self.lines[before:-1]
        self.trainers.clear()
        self.modules.clear()

    def make_logger(self, name: str) -> Any:
        """A logger that records what it receives."""
        return make_logger_class(self.pl, self.lines.append)(name)

    def _recording(self, cls: type, hooks: Iterable[str]) -> Any:
        return record_methods(cls, hooks, self._record_hook)

    def _record_hook(self, instance: Any, hook: str, arguments: Mapping[str, Any]) -> None:
        trainer = arguments.get("trainer") or instance.__dict__.get("_trainer") or getattr(instance, "trainer", None)
        kind = next(
            k
            for k in ("Callback", "LightningDataModule", "LightningModule")
            if isinstance(instance, getattr(self.pl, k))
        )
        shown = ", ".join(show_argument(name, value) for name, value in arguments.items())
        counters = f" @ epoch {trainer.current_epoch} step {trainer.global_step}" if trainer else ""
        self.lines.append(f"{kind}.{hook}({shown}){counters}")

    def report(self) -> list[str]:
        """All lines: what was recorded, then the final state of Trainers, modules and files."""
        lines = list(self.lines)
        for index, trainer in enumerate(self.trainers):
            lines += [f"trainer {index} {name}: {show(getattr(trainer, name))}" for name in TRAINER_ATTRIBUTES]
            lines.append(f"trainer {index} state: {show([trainer.state.fn, trainer.state.status])}")
        for index, module in enumerate(self.modules):
            lines += [f"module {index} {name}: {show(value)}" for name, value in module.state_dict().items()]
            lines += [f"module {index} {name} trains: {m.training}" for name, m in module.named_modules()]
        lines += [f"file {path}" for path in self.files()]
        return [line for line in lines if not any(re.search(pattern, line) for pattern in self.differences)]

    def files(self) -> list[str]:
        """The files under :attr:`tmp_path`, relative to it."""
        paths = (path.relative_to(self.tmp_path).as_posix() for path in self.tmp_path.rglob("*") if path.is_file())
        return sorted(re.sub(r"events\.out\.tfevents\..*", "events.out.tfevents", path) for path in paths)


def make_model_class(pl: ModuleType) -> Any:
    """The model of ``pl`` that scenarios build on: small, with dropout, so that random states are compared too."""

    class Model(pl.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)
            self.dropout = nn.Dropout(0.2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.dropout(x))

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            return nn.functional.mse_loss(self(x), y)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("val_loss", self.loss(batch))

        def test_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("test_loss", self.loss(batch))

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self(batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Model


def make_datamodule_class(pl: ModuleType) -> Any:
    """A data module of ``pl`` with a shuffled training loader and three for evaluation."""

    class DataModule(pl.LightningDataModule):  # type: ignore[misc,name-defined]
        def train_dataloader(self) -> Any:
            return rows(3, shuffle=True)

        def val_dataloader(self) -> Any:
            return rows(2)

        def test_dataloader(self) -> Any:
            return rows(2)

        def predict_dataloader(self) -> Any:
            return rows(2)

    return DataModule


def make_logger_class(pl: ModuleType, write: Callable[[str], None]) -> Any:
    """A logger of ``pl`` that hands every call to ``write`` as a line."""

    class RecordingLogger(pl.loggers.Logger):  # type: ignore[misc,name-defined]
        def __init__(self, name: str) -> None:
            super().__init__()
            self._name = name

        @property
        def name(self) -> str:
            return self._name

        @property
        def version(self) -> int:
            return 0

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            write(f"{self.name}.log_metrics step={step} {show(metrics)}")

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            write(f"{self.name}.log_hyperparams {show(dict(params))}")

        def log_graph(self, model: Any, input_array: Any = None) -> None:
            write(f"{self.name}.log_graph {type(model).__name__}")

        def finalize(self, status: str) -> None:
            write(f"{self.name}.finalize {status}")

        def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
            write(f"{self.name}.after_save_checkpoint {checkpoint_callback.__class__.__name__}")

    return RecordingLogger


def run(scenario: Callable[..., None], framework: str, tmp_path: Path, **arguments: Any) -> list[str]:
    """Run a scenario in one framework, from the same random state, and return its record."""
    directory = tmp_path / framework
    directory.mkdir()
    environment = dict(os.environ)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    try:
        lab = Lab(importlib.import_module(framework), directory)
        scenario(lab.pl, lab, **arguments)
        return lab.report()
    finally:
        os.environ.clear()
        os.environ.update(environment)  # seed_everything leaves variables there


def parity(scenario: Callable[..., None]) -> Callable[..., None]:
    """Make a test of a scenario: its records in pytorch-lightning and in Leyden are equal.

    The scenario takes ``pl`` and ``lab``; further parameters are pytest's.
    """

    def test(tmp_path: Path, **arguments: Any) -> None:
        torch.set_num_threads(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = run(scenario, "pytorch_lightning", tmp_path, **arguments)
        with warnings.catch_warnings():  # what Leyden itself warns of is tested elsewhere; anybody else's is an error
            warnings.filterwarnings("ignore", module=r"leyden|.*parity")
            actual = run(scenario, "leyden", tmp_path, **arguments)
        diff = list(difflib.unified_diff(expected, actual, "pytorch-lightning", "leyden", lineterm="", n=2))
        assert not diff, "Leyden differs from pytorch-lightning:\n" + "\n".join(diff)

    functools.update_wrapper(test, scenario)
    del test.__wrapped__  # type: ignore[attr-defined]  # pytest would look at the scenario's parameters instead
    own = [p for p in inspect.signature(scenario).parameters.values() if p.name not in ("pl", "lab")]
    path = inspect.Parameter("tmp_path", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    test.__signature__ = inspect.Signature([path, *own])  # type: ignore[attr-defined]
    return test

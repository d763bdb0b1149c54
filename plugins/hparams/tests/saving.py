"""Models of hyperparameters and what is put into them, saved by a run and loaded."""

from __future__ import annotations

import enum
import inspect
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import leyden as pl
from leyden_testing.models import LoggingModel, rows
from leyden_testing.training import quiet_trainer


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"
    PAIR = (1, 2)
    CALL = len  # a member whose value is no data
    UNIT = object()


class Tongue(str, enum.Enum):
    EN = "en"


class Level(enum.IntEnum):
    HIGH = 3


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Entry(TypedDict):
    mode: Mode
    n: int


class Size(NamedTuple):
    height: int
    mode: Mode = Mode.FAST


@dataclass
class Inner:
    mode: Mode
    since: date = date(2020, 1, 2)


@dataclass
class Config:
    """A config of several kinds of values."""

    width: int = 3
    inner: Inner = field(default_factory=lambda: Inner(Mode.SLOW))
    sizes: list[Size] = field(default_factory=list)
    root: Path | None = None
    by_mode: dict[Mode, int] = field(default_factory=dict)


@dataclass
class Wider(Config):
    more: int = 1


class Loud(str):
    """Text of one's own."""


class Options(dict):
    """A dict of one's own."""


class Scale:
    """An object that is no data."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scale) and self.factor == other.factor

    __hash__ = None  # type: ignore[assignment]


class Any1(LoggingModel):
    """A model of one hyperparameter of which the code says nothing."""

    def __init__(self, value):  # type: ignore[no-untyped-def]
        super().__init__()
        self.save_hyperparameters()


class AnyMore(LoggingModel):
    """A model of any hyperparameters."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self.save_hyperparameters()


def annotated(hints: dict[str, Any], **defaults: Any) -> Any:
    """A class of models whose arguments have these annotations and defaults."""

    class Model(LoggingModel):
        def __init__(self, **values: Any) -> None:
            super().__init__()
            self.save_hyperparameters()

    kind, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    own = [
        inspect.Parameter(name, kind, annotation=hints.get(name, empty), default=defaults.get(name))
        for name in {**hints, **defaults}
    ]
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    Model.__init__.__signature__ = inspect.Signature([first, *own])  # type: ignore[attr-defined]
    return Model


def save(tmp_path: Path, model: pl.LightningModule, datamodule: Any = None, **options: Any) -> Path:
    """Train a little and save; returns where."""
    trainer = quiet_trainer(tmp_path, **options)
    trainer.fit(model, None if datamodule else rows(1), datamodule=datamodule)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"

"""Logger: where metrics and hyperparameters go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from leyden.utilities.rank_zero import rank_zero_only

T = TypeVar("T")


class Logger(ABC):
    """A destination for metrics.

    An author *must* write :attr:`name`, :attr:`version`, :meth:`log_metrics` and :meth:`log_hyperparams`
    and *may* override the rest. All methods are called on every rank; mark those that write with
    :func:`~leyden.utilities.rank_zero_only`.
    """

    @property
    @abstractmethod
    def name(self) -> str | None:
        """The experiment's name, a part of the checkpoints' path."""

    @property
    @abstractmethod
    def version(self) -> int | str | None:
        """The run's version, a part of the checkpoints' path."""

    @property
    def root_dir(self) -> str | None:
        """The directory of all versions of an experiment, or None where the logger has no files."""
        return None

    @property
    def log_dir(self) -> str | None:
        """The directory of this run, or None where the logger has no files."""
        return None

    @property
    def save_dir(self) -> str | None:
        """The directory of all experiments, or None where the logger has no files."""
        return None

    @property
    def group_separator(self) -> str:
        """What separates a group from a name in metric names."""
        return "/"

    @abstractmethod
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Record metrics of one step.

        Args:
            metrics: Name to number; the Trainer adds "epoch".
            step: Batches that led to an optimizer step so far, from 0.
        """

    @abstractmethod
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Record hyperparameters: a mapping (possibly nested) or a Namespace."""

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Record the model's graph."""

    def take_version(self, version: int | str | None) -> None:
        """Write where rank 0 does, whose version this is; a logger without files keeps its own."""

    def save(self) -> None:
        """Flush what is pending to storage."""

    def finalize(self, status: str) -> None:
        """The run has ended: "success", "failed" or "finished"."""
        self.save()

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """A checkpoint callback has saved; a logger that keeps artifacts takes it from there."""


class _DummyExperiment:
    """Takes every call and every attribute and does nothing: the experiment of ranks other than 0."""

    def nop(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):  # what copies and pickles things asks for methods that they need not have
            raise AttributeError(name)
        return self.nop

    def __getitem__(self, _: Any) -> _DummyExperiment:
        return self

    def __setitem__(self, *_: Any) -> None:
        return None


class DummyLogger(_DummyExperiment, Logger):
    """Takes everything and records nothing; ``fast_dev_run`` puts it in the place of the loggers."""

    @property
    def name(self) -> str:
        """Nothing."""
        return ""

    @property
    def version(self) -> str:
        """Nothing."""
        return ""

    @property
    def experiment(self) -> Any:
        """An object on which every call is a no-op."""
        return _DummyExperiment()

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Record nothing."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Record nothing."""


def rank_zero_experiment(function: Callable[[Any], T]) -> Callable[[Any], T]:
    """Wrap an ``experiment`` property so that ranks other than 0 get one on which every call is a no-op."""

    @wraps(function)
    def experiment(self: Any) -> Any:
        return function(self) if rank_zero_only.rank == 0 else _DummyExperiment()

    return experiment


def as_mapping(params: Any) -> Mapping[str, Any]:
    """Hyperparameters as a mapping, from a mapping, a Namespace or None."""
    if params is None:
        return {}
    return params if isinstance(params, Mapping) else vars(params)


def flatten_params(params: Any, separator: str = "/") -> dict[str, Any]:
    """One flat mapping from nested hyperparameters: ``{"a": {"b": 1}}`` becomes ``{"a/b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in as_mapping(params).items():
        if isinstance(value, Mapping) or type(value).__name__ == "Namespace":
            inner = flatten_params(value, separator)
            flat.update({f"{key}{separator}{name}": v for name, v in inner.items()} or {str(key): ""})
        else:
            flat[str(key)] = value
    return flat

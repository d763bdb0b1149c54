"""Logger: where metrics and hyperparameters are written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from leyden.interfaces.strategy import Strategy
from leyden.utilities.objects import is_overridden


class Logger(ABC):
    """A destination for metrics.

    An author *must* write :attr:`name`, :attr:`version`, :meth:`log_metrics` and :meth:`log_hyperparams`
    and *may* override the rest. All methods are called on every rank; decorate those that write with
    :func:`~leyden.utilities.rank_zero_only`, so that only rank 0 does.
    """

    @property
    @abstractmethod
    def name(self) -> str | None:
        """The name of the experiment; a part of the path of checkpoints."""

    @property
    @abstractmethod
    def version(self) -> int | str | None:
        """The version of the run; a part of the path of checkpoints."""

    @property
    def root_dir(self) -> str | None:
        """The directory of all versions of the experiment; None where the logger writes no files."""
        return None

    @property
    def log_dir(self) -> str | None:
        """The directory of this run; None where the logger writes no files."""
        return None

    @property
    def save_dir(self) -> str | None:
        """The directory of all experiments; None where the logger writes no files."""
        return None

    @property
    def group_separator(self) -> str:
        """What separates a group from a name in the names of metrics, as in "train/loss"."""
        return "/"

    @abstractmethod
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write the metrics of one step.

        Args:
            metrics: Name to number; the Trainer adds "epoch".
            step: The number of the step, from 0: how many batches have led to an optimizer step before it.
        """

    @abstractmethod
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write hyperparameters: a mapping, which may be nested, or a Namespace."""

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Write the graph of the model."""

    def take_version(self, version: int | str | None) -> None:
        """Take the version that rank 0 has chosen, so that all ranks name the same directory.

        A logger without files need not override it, and keeps its own version.
        """

    def save(self) -> None:
        """Write to storage what is still in memory."""

    def finalize(self, status: str) -> None:
        """Finish after a run that has ended with ``status``: "success", "failed" or "finished"."""
        self.save()

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Called after a checkpoint callback has saved; a logger that stores files may upload the checkpoint."""


class _DummyExperiment:
    """Accepts every call and every attribute, and does nothing: the experiment of ranks other than 0."""

    def nop(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):  # copy and pickle ask for special methods that an object need not have
            raise AttributeError(name)
        return self.nop

    def __getitem__(self, _: Any) -> _DummyExperiment:
        return self

    def __setitem__(self, *_: Any) -> None:
        """Do nothing."""


class DummyLogger(_DummyExperiment, Logger):
    """Accepts everything and writes nothing; ``fast_dev_run`` replaces the loggers by it."""

    name = version = ""
    experiment: Any = _DummyExperiment()

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write nothing."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write nothing."""


def agree_on_versions(loggers: Iterable[Logger], strategy: Strategy) -> None:
    """Give every logger that has :meth:`Logger.take_version` the version of rank 0's; called by all processes.

    Args:
        loggers: Those of this process. They may be others than those of rank 0, and keep their versions then.
        strategy: Through which the processes agree.
    """
    if strategy.world_size == 1:
        return
    own = [logger for logger in loggers if is_overridden("take_version", logger, Logger)]
    chosen = [(type(logger).__name__, logger.version if strategy.is_global_zero else 0) for logger in own]
    for logger, (kind, version) in zip(own, strategy.broadcast(chosen), strict=False):
        if kind == type(logger).__name__:
            logger.take_version(version)

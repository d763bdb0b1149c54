"""The ``experiment`` of a logger, on rank 0 and on the others."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from leyden.loggers import DummyLogger
from leyden.utilities import rank_zero_only

T = TypeVar("T")


def rank_zero_experiment(function: Callable[[Any], T]) -> Callable[[Any], T]:
    """Wrap an ``experiment`` property so that ranks other than 0 get an object on which every call does nothing."""

    @wraps(function)
    def experiment(self: Any) -> Any:
        return function(self) if rank_zero_only.rank == 0 else DummyLogger.experiment

    return experiment

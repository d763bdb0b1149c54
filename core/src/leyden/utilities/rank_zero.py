"""Logs, warns and calls functions only once, on rank 0, even with several processes."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class _StandardErrorHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic only for type checkers
    """Writes to the current ``sys.stderr``, which a progress bar may have replaced to print above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


log = logging.getLogger("leyden")
log.setLevel(logging.INFO)
if not logging.getLogger().hasHandlers():  # print messages without configuration, but never twice
    log.addHandler(_StandardErrorHandler())
    log.propagate = False


class _RankZeroOnly:
    """The decorator :data:`rank_zero_only`; the strategy sets its attribute ``rank``."""

    def __init__(self) -> None:
        announced = os.environ.get("RANK", "")  # by a launcher, before any strategy could
        self.rank = int(announced) if announced.isdigit() else 0

    def __call__(self, function: Callable[P, R]) -> Callable[P, R | None]:
        """Make ``function`` do nothing and return None on ranks other than 0."""

        @wraps(function)
        def on_rank_zero(*args: P.args, **kwargs: P.kwargs) -> R | None:
            return function(*args, **kwargs) if self.rank == 0 else None

        return on_rank_zero


rank_zero_only = _RankZeroOnly()


def rank_zero_debug(message: str, *args: Any) -> None:
    """Log a detail on rank 0."""
    if rank_zero_only.rank == 0:
        log.debug(message, *args)


def rank_zero_info(message: str, *args: Any) -> None:
    """Log a message on rank 0."""
    if rank_zero_only.rank == 0:
        log.info(message, *args)


def rank_zero_warn(message: str, category: type[Warning] = UserWarning, stacklevel: int = 2) -> None:
    """Warn on rank 0; ``stacklevel`` counts from the caller as in :func:`warnings.warn`."""
    if rank_zero_only.rank == 0:
        warnings.warn(message, category, stacklevel=stacklevel + 1)


def rank_zero_deprecation(message: str, stacklevel: int = 2) -> None:
    """Warn on rank 0 that something is deprecated; ``stacklevel`` is that of :func:`rank_zero_warn`."""
    rank_zero_warn(message, DeprecationWarning, stacklevel + 1)

"""Launcher: how the other processes of a run come to be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")


class Launcher(ABC):
    """Starts processes; a strategy of several has one.

    An author *must* write :meth:`launch` and *may* set :attr:`takes_part`.

    Attributes:
        takes_part: Whether the calling process is one of the run's; else ``launch`` puts what the run has come to,
            weights and metrics say, into the Trainer of the calling process, whose method ``function`` is.
    """

    takes_part: ClassVar[bool] = True

    @abstractmethod
    def launch(self, function: Callable[..., T], *args: Any) -> T:
        """Run ``function(*args)`` in every process of the run; return this process's result, or else rank 0's."""

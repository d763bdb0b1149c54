"""Launcher: what starts the other processes of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")


class Launcher(ABC):
    """Starts the processes of a run; a strategy of several processes has one.

    An author *must* write :meth:`launch` and *may* set :attr:`takes_part`.

    Attributes:
        takes_part: Whether the calling process is one of the run's processes. Where it is not, ``launch`` copies the
            results of the run, such as weights and metrics, into the Trainer of the calling process; ``function`` is a
            method of that Trainer.
    """

    takes_part: ClassVar[bool] = True

    @abstractmethod
    def launch(self, function: Callable[..., T], *args: Any) -> T:
        """Run ``function(*args)`` in every process of the run.

        Returns:
            The result in this process, or that of rank 0 where this process takes no part.
        """

"""Launcher: how the other processes of a run come to be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Launcher(ABC):
    """Starts processes; a strategy of several has one."""

    @abstractmethod
    def launch(self, function: Callable[..., T], *args: Any) -> T:
        """Run ``function(*args)`` in every process of the run and return this process's result.

        Where the caller's own process takes no part, return rank 0's and bring its weights and state back.
        """

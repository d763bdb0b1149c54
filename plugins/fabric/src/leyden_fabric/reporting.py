"""The loggers and callbacks of a Fabric."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from leyden.loggers import Logger
from leyden.utilities.rank_zero import rank_zero_warn


class Reporting:
    """The part of :class:`~leyden_fabric.fabric.Fabric` that has loggers and callbacks."""

    _loggers: list[Logger]
    _callbacks: list[Any]

    @property
    def loggers(self) -> list[Logger]:
        """All loggers."""
        return self._loggers

    @property
    def logger(self) -> Logger:
        """The first logger.

        Raises:
            IndexError: There is none.
        """
        if not self._loggers:
            raise IndexError('This Fabric has no logger; give it one, for example Fabric(loggers="csv").')
        return self._loggers[0]

    def log(self, name: str, value: Any, step: int | None = None) -> None:
        """Send one number to all loggers.

        Args:
            name: The name of the number.
            value: A number, or a tensor of one element.
            step: The step; None lets most loggers count steps themselves.
        """
        self.log_dict({name: value}, step)

    def log_dict(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Send several numbers to all loggers.

        Args:
            metrics: Name to number; see :meth:`log`.
            step: The step; see :meth:`log`.

        Raises:
            ValueError: A tensor has not exactly one element.
        """
        for name, value in metrics.items():
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"log({name!r}): a tensor of shape {tuple(value.shape)} is no single number.")
        numbers = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        for logger in self._loggers:
            logger.log_metrics(numbers, step)

    def call(self, hook_name: str, *args: Any, **kwargs: Any) -> None:
        """Call a method of all callbacks that have it.

        Args:
            hook_name: The name of the method.
            args: Arguments of the method.
            kwargs: Keyword arguments of the method; those that it does not take are left out.
        """
        for callback in self._callbacks:
            method = getattr(callback, hook_name, None)
            if method is not None and not callable(method):
                rank_zero_warn(f"{type(callback).__name__}.{hook_name} is no method, so it is not called.")
            elif method is not None:
                method(*args, **_taken(method, kwargs))


def _taken(method: Callable[..., Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments that a method takes."""
    try:
        parameters = inspect.signature(method).parameters
    except (TypeError, ValueError):  # the signature of some methods written in C is not known
        return kwargs
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return kwargs
    return {name: value for name, value in kwargs.items() if name in parameters}

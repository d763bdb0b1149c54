"""LightningOptimizer: a user's optimizer as ``training_step`` and ``optimizer_step`` see it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden.loops.step import BatchStep


class LightningOptimizer:
    """Passes everything on to the optimizer; ``step`` calls the hooks, goes through the precision and is counted.

    ``isinstance(x, torch.optim.Adam)`` is true of a wrapped Adam.
    """

    def __init__(self, optimizer: Any, step: BatchStep) -> None:
        self.__dict__["_optimizer"] = optimizer
        self.__dict__["_step"] = step

    @property
    def optimizer(self) -> Any:
        """The user's own object."""
        return self._optimizer

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Step the optimizer; a closure computes the loss and its gradients first."""
        return self._step.step_optimizer(self._optimizer, closure, **kwargs)

    @contextmanager
    def toggle_model(self, sync_grad: bool = True) -> Generator[None, None, None]:
        """A block in which only this optimizer's parameters require gradients.

        Args:
            sync_grad: Whether processes exchange gradients in the block; False while accumulating.
        """
        step = self._step
        with step.module.toggled_optimizer(self):
            if sync_grad:
                yield
            else:
                with step.strategy.no_sync():
                    yield

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._optimizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_optimizer"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._optimizer, name, value)

    def __repr__(self) -> str:
        return f"Lightning{self._optimizer!r}"

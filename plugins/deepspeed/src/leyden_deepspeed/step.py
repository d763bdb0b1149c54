"""The training step with DeepSpeed's engine, which runs the backward pass and the optimizer's step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden import LightningModule
from leyden.plugins import BatchStep, Precision
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.objects import is_overridden
from leyden.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from leyden.plugins import Run

# Methods of a module that the engine would not call, or whose effect it would undo, and what it does instead.
OWN_WAYS = {
    "backward": "the backward pass",
    "optimizer_zero_grad": "the clearing of gradients",
    "configure_gradient_clipping": "the clipping of gradients (by Trainer(gradient_clip_val=...))",
}


class EngineOptimizer:
    """An optimizer whose ``step`` is that of the engine, which clips gradients, steps and clears gradients.

    All other attributes are those of DeepSpeed's optimizer: ``param_groups``, ``state``, …

    Args:
        engine: DeepSpeed's engine.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Run the closure, if there is one, and step."""
        result = closure() if closure is not None else None
        self.engine.step()
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: the engine clears gradients when it has stepped."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["engine"].optimizer, name)

    def __repr__(self) -> str:
        return f"EngineOptimizer({self.engine.optimizer!r})"


class EngineStep(BatchStep):
    """The core's steps, automatic and manual, with the engine's backward pass, loss scaling and clipping.

    Args:
        trainer: The Trainer of the run.
        engine: DeepSpeed's engine.

    Raises:
        MisconfigurationException: The module overrides a method that the engine would not call.
    """

    def __init__(self, run: Run, engine: Any) -> None:
        super().__init__(run)
        for name, what in OWN_WAYS.items():
            if is_overridden(name, self.module, LightningModule):
                raise MisconfigurationException(
                    f"{type(self.module).__name__} overrides {name}, but DeepSpeed's engine does {what} itself; remove "
                    "the method, or write strategy='zero_2'."
                )
        self._engine = engine
        self._own_backward = self._engine_backward
        self._scale_loss = self._unscale = self._forward_context = None
        self._precision_step = self._engine_step

    def _engine_backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        # The loss has been divided by the number of accumulated batches already.
        self._engine.backward(loss, retain_graph=retain_graph, scale_wrt_gas=False)

    def _engine_step(self, optimizer: Any, closure: Callable[[], Any] | None = None, **arguments: Any) -> Any:
        result = Precision().optimizer_step(optimizer, closure, **arguments)
        self.strategy.precision.has_skipped = not self._engine.was_step_applied()
        return result

    def rescale_gradients(self, optimizer: Any, factor: float) -> None:
        """Say that it can't be done, because the engine gives no access to gradients."""
        rank_zero_warn(
            "The last step of this epoch has fewer batches than accumulate_grad_batches, which could not be known. "
            f"Its gradients should be {factor:g} times as large, but DeepSpeed's engine gives no access to them; give "
            "the training loader a length."
        )

    def clip_gradients(self, optimizer: Any, value: float | None, algorithm: str | None) -> None:
        """Do nothing in automatic optimisation, where the engine clips when it steps.

        Raises:
            MisconfigurationException: In manual optimisation, because the engine does not give access to gradients.
        """
        if not self.automatic:
            raise MisconfigurationException(
                "self.clip_gradients finds no gradients, because DeepSpeed's engine gives no access to them; set "
                "gradient_clipping in DeepSpeed's config, which then clips in optimizer.step()."
            )

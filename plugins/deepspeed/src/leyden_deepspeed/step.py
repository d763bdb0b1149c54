"""The training step on DeepSpeed's engine: backward and the optimizer's step are the engine's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden.interfaces.precision import Precision
from leyden.loops.step import BatchStep
from leyden.module import LightningModule
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.overriding import is_overridden

if TYPE_CHECKING:
    from leyden.trainer.run import Run

# What the engine does by itself, so that a module's own way would not be asked, or not do what it says.
OWN_WAYS = {
    "backward": "backward passes",
    "optimizer_zero_grad": "clearing gradients",
    "configure_gradient_clipping": "clipping gradients (Trainer(gradient_clip_val=...) is passed on to it)",
}


class EngineOptimizer:
    """The engine in the place of an optimizer: ``step`` clips, steps and clears the gradients.

    Everything else is that of DeepSpeed's optimizer: ``param_groups``, ``state``, …
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Run the closure, and step."""
        result = closure() if closure is not None else None
        self.engine.step()
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: the engine clears gradients when it has stepped."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["engine"].optimizer, name)

    def __repr__(self) -> str:
        return f"EngineOptimizer({self.engine.optimizer!r})"


class EngineStep(BatchStep):
    """The core's steps, automatic and manual, with the engine's backward pass, scaling and clipping."""

    def __init__(self, run: Run, engine: Any) -> None:
        super().__init__(run)
        for name, what in OWN_WAYS.items():
            if is_overridden(name, self.module, LightningModule):
                raise MisconfigurationException(
                    f"{type(self.module).__name__} overrides {name}, but {what} is up to DeepSpeed's engine; remove "
                    "it, or write strategy='zero_2'."
                )
        self._engine = engine
        self._own_backward = self._engine_backward
        self._scale_loss = self._unscale = self._forward_context = None
        self._precision_step = Precision().optimizer_step

    def _engine_backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        # the loss has been divided by the number of accumulated batches
        self._engine.backward(loss, retain_graph=retain_graph, scale_wrt_gas=False)

    def clip_gradients(self, optimizer: Any, value: float | None, algorithm: str | None) -> None:
        """Nothing in automatic optimisation, where the engine clips as it steps.

        Raises:
            MisconfigurationException: In manual optimisation, where it would be asked for gradients that it hides.
        """
        if not self.automatic:
            raise MisconfigurationException(
                "self.clip_gradients finds no gradients, which DeepSpeed's engine keeps to itself; write "
                "gradient_clipping into its config, and it clips in optimizer.step()."
            )

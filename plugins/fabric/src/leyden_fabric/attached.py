"""A LightningModule under a hand-written loop: whoever runs it is a Fabric, and it has no Trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden.loggers import Logger

if TYPE_CHECKING:
    from leyden_fabric.fabric import Fabric
    from leyden_fabric.wrappers import FabricModule

OF_FABRIC = ("global_rank", "local_rank", "logger", "loggers", "print", "world_size", "is_global_zero", "strategy")


class NoTrainer:
    """What ``self.trainer`` is under Fabric: what a Fabric has too is the Fabric's, all else is refused by name.

    Args:
        run: What runs the module.
    """

    def __init__(self, run: FabricRunner) -> None:
        self.run = run

    def __getattr__(self, name: str) -> Any:
        if name in OF_FABRIC:
            return getattr(self.run.fabric, name)
        raise AttributeError(
            f"self.trainer.{name}: this module was set up by Fabric, which has nothing of that name; a Trainer has."
        )


class FabricRunner:
    """Runs a module for a Fabric, as a run of a Trainer does: ``self.log``, ``self.manual_backward`` and others work.

    It is a :class:`leyden.plugins.Runner`.

    Args:
        fabric: The Fabric.
        module: The module, set up.
        optimizers: Those that were set up with it.
    """

    is_running = True
    current_epoch = global_step = 0  # whoever writes the loop counts
    lr_schedulers = ()

    def __init__(self, fabric: Fabric, module: FabricModule, optimizers: Sequence[Any]) -> None:
        self.fabric, self._module = fabric, module
        self.optimizers = self.wrapped_optimizers = optimizers
        self.strategy = module._strategy
        self.trainer = NoTrainer(self)

    @property
    def loggers(self) -> Sequence[Logger]:
        """All loggers of the Fabric."""
        return self.fabric.loggers

    def log(self, name: str, value: Any, options: Any, batch_size: int | None) -> None:
        """Log at once and as it is: only a Trainer knows of steps and epochs to reduce over."""
        if options.logger is not False:
            values = {f"{name}/{key}": v for key, v in value.items()} if isinstance(value, Mapping) else {name: value}
            self.fabric.log_dict(values)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """``self.manual_backward``."""
        self.fabric.backward(loss, *args, model=self._module, **kwargs)

    def clip_gradients(self, optimizer: Any, value: float | None, algorithm: str | None) -> None:
        """``self.clip_gradients``; there is no default value to clip by."""
        if value is not None:
            limit: dict[str, Any] = {"clip_val" if algorithm == "value" else "max_norm": value}
            self.fabric.clip_gradients(self._module, optimizer, **limit)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """``self.print``."""
        self.fabric.print(*args, **kwargs)

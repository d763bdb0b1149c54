"""Runner: what a module needs of whoever runs it, a run of a Trainer or a hand-written loop."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from leyden.interfaces.logger import Logger
from leyden.interfaces.strategy import Strategy


class Runner(Protocol):
    """Whoever runs a LightningModule: its methods, such as ``self.log`` and ``self.manual_backward``, come here.

    An author of a loop of another kind *must* write all of it, and give the module an object whose ``run`` it is:
    ``module.trainer = that_object``. It *may* have more, as a run of a Trainer has.

    Attributes:
        trainer: What ``self.trainer`` is.
        fabric: The Fabric whose loop it is; None for a Trainer.
        strategy: The strategy that has set the module up.
        is_running: Whether a run is under way, so that the module is on the strategy's device.
        current_epoch: Epochs finished so far.
        global_step: Optimizer steps taken so far.
    """

    trainer: Any
    fabric: Any
    strategy: Strategy
    is_running: bool
    current_epoch: int
    global_step: int

    @property
    def loggers(self) -> Sequence[Logger]:
        """All loggers."""

    @property
    def optimizers(self) -> Sequence[Any]:
        """PyTorch's own objects."""

    @property
    def wrapped_optimizers(self) -> Sequence[Any]:
        """The same as the module's steps see them."""

    @property
    def lr_schedulers(self) -> Sequence[Any]:
        """The schedulers of the optimizers."""

    def log(self, name: str, value: Any, options: Any, batch_size: int | None) -> None:
        """Take one ``self.log`` call; ``options`` is a :class:`~leyden.plugins.LogOptions`."""

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Go backward on ``loss`` as strategy and precision need it, with the hooks."""

    def clip_gradients(self, optimizer: Any, value: float | None, algorithm: str | None) -> None:
        """Clip an optimizer's gradients; None leaves the bound, or the way, to the runner."""

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print once, on rank 0."""

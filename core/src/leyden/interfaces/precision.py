"""Precision: the number format in which a model computes. The base class is 32-bit, PyTorch's default."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from leyden.interfaces.accelerator import Accelerator


class Precision:
    """The base class *is* ``32-true``; override what another format needs.

    An author *must* set :attr:`precision` and *may* override the rest. The methods are called once for every batch,
    unless they say otherwise.

    Attributes:
        precision: The name that users see.
        has_skipped: Whether the last :meth:`optimizer_step` has left the weights as they were, because gradients had
            overflowed. Such a step is not counted, and no learning rate moves on.
    """

    precision: str = "32-true"
    has_skipped: bool = False

    def setup(self, accelerator: Accelerator) -> None:
        """Take the accelerator, and refuse one that can't compute in this format; once, when the Trainer is made."""

    def module_init_context(self) -> AbstractContextManager[Any]:
        """The context in which ``configure_model`` builds modules; once for every run."""
        return nullcontext()

    def convert_module(self, module: Module) -> Module:
        """Cast the module in place, before it is moved to its device.

        Called once for every run. A run that resumes from a checkpoint calls it twice, before and after the weights
        are loaded; the second call has to cast only what ``on_load_checkpoint`` has added.
        """
        return module

    def convert_input(self, data: Any) -> Any:
        """Cast a batch before it is moved to the device."""
        return data

    def forward_context(self) -> AbstractContextManager[Any]:
        """The context of the forward pass."""
        return nullcontext()

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Return the loss on which ``backward`` is called, multiplied by a scale if the format needs one."""
        return loss

    def unscale_gradients(self, optimizer: Optimizer) -> None:
        """Undo :meth:`scale_loss` on the gradients of ``optimizer``; a second call for the same step must do nothing.

        Called before ``on_before_optimizer_step``. In manual optimisation it is also called before gradients are
        clipped.
        """

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any] | None = None, **arguments: Any) -> Any:
        """Step ``optimizer``.

        Args:
            optimizer: The optimizer.
            closure: Computes the loss and its gradients before the step; None where they have been computed.
            arguments: Further arguments that the user gave to ``step``.

        Returns:
            What the optimizer's ``step`` returned.
        """
        return optimizer.step(**arguments) if closure is None else optimizer.step(closure, **arguments)

    def clip_gradients(self, parameters: Iterable[Tensor], clip_val: float, algorithm: str) -> Tensor | None:
        """Clip unscaled gradients in place.

        Args:
            parameters: Those whose gradients are clipped together.
            clip_val: The bound.
            algorithm: "norm" bounds the norm of all gradients together, "value" each element.

        Returns:
            The norm before clipping; None for "value".
        """
        if algorithm == "value":
            return torch.nn.utils.clip_grad_value_(parameters, clip_value=clip_val)
        return torch.nn.utils.clip_grad_norm_(parameters, clip_val)

    def state_dict(self) -> dict[str, Any]:
        """The state that checkpoints keep, that of a loss scaler for example; {} where there is none."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""

    def teardown(self) -> None:
        """Undo global settings of the run; called at the end of every run, also of one that failed."""

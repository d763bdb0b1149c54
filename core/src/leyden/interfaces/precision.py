"""Precision: in what number format a model computes. The base class is 32-bit, PyTorch's default."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from leyden.interfaces.accelerator import Accelerator


class Precision:
    """The base class *is* ``32-true``; override what a format needs.

    The loop asks each method once per batch, or once per run where it says so. An author *must* set
    :attr:`precision` and *may* override the rest.
    """

    precision: str = "32-true"

    def setup(self, accelerator: Accelerator) -> None:
        """Learn what computes, and refuse what can't be computed on it; once, when the Trainer is made."""

    def module_init_context(self) -> AbstractContextManager[Any]:
        """Context in which ``configure_model`` builds modules."""
        return nullcontext()

    def convert_module(self, module: Module) -> Module:
        """Cast the module in place, before it is moved to its device.

        A run that goes on from a checkpoint calls it twice, before the weights are put back and after: then it finds
        only what ``on_load_checkpoint`` added.
        """
        return module

    def convert_input(self, data: Any) -> Any:
        """Cast a batch before it is moved to the device."""
        return data

    def forward_context(self) -> AbstractContextManager[Any]:
        """Context of every step's forward pass."""
        return nullcontext()

    def scale_loss(self, loss: Tensor) -> Tensor:
        """The loss on which ``backward`` is called."""
        return loss

    def unscale_gradients(self, optimizer: Optimizer) -> None:
        """Undo :meth:`scale_loss` on the gradients of ``optimizer``, once for every step.

        Called before ``on_before_optimizer_step``, and in manual optimisation before clipping too, if that is first.
        """

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any] | None = None, **arguments: Any) -> Any:
        """Step ``optimizer``, with the user's further arguments, and return what it returned."""
        return optimizer.step(**arguments) if closure is None else optimizer.step(closure, **arguments)

    def clip_gradients(self, parameters: Iterable[Tensor], clip_val: float, algorithm: str) -> Tensor | None:
        """Clip unscaled gradients in place, by total norm ("norm") or by element ("value"); returns the norm before."""
        if algorithm == "value":
            return torch.nn.utils.clip_grad_value_(parameters, clip_value=clip_val)
        return torch.nn.utils.clip_grad_norm_(parameters, clip_val)

    def state_dict(self) -> dict[str, Any]:
        """State to keep in checkpoints (a scaler's, say); {} keeps nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""

    def teardown(self) -> None:
        """Undo what the run set globally; at the end of every run, also of one that failed."""

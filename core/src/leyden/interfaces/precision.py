"""Precision: in what number format a model computes. The base class is 32-bit, PyTorch's default."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer


class Precision:
    """The base class *is* ``32-true``; override what a format needs.

    The loop asks each method once per batch, or once per run where it says so. An author *must* set
    :attr:`precision` and *may* override the rest.
    """

    precision: ClassVar[str] = "32-true"

    def module_init_context(self) -> AbstractContextManager[Any]:
        """Context in which ``configure_model`` and ``Trainer.init_module`` build modules."""
        return nullcontext()

    def convert_module(self, module: Module) -> Module:
        """Cast the module, once, before it is moved to its device."""
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
        """Undo :meth:`scale_loss` on the gradients of ``optimizer``; before ``on_before_optimizer_step``."""

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any] | None = None) -> Any:
        """Step ``optimizer`` and return what it returned."""
        return optimizer.step() if closure is None else optimizer.step(closure)

    def clip_gradients(self, parameters: Iterable[Tensor], clip_val: float, algorithm: str) -> None:
        """Clip unscaled gradients in place, by total norm ("norm") or by element ("value")."""
        if algorithm == "value":
            torch.nn.utils.clip_grad_value_(parameters, clip_value=clip_val)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, clip_val)

    def state_dict(self) -> dict[str, Any]:
        """State to keep in checkpoints (a scaler's, say); {} keeps nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""

    def teardown(self) -> None:
        """Undo what the run set globally."""

"""LocalSGDStrategy: every process trains alone, and all processes average their weights every few steps."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module

from leyden import hookimpl
from leyden.utilities import MisconfigurationException
from leyden_ddp.parallel import ParallelStrategy


class LocalSGDStrategy(ParallelStrategy):
    """Local SGD: processes communicate once in ``average_every`` steps instead of in every step.

    All processes start with the weights of rank 0. They average after every ``average_every``-th optimizer step. If
    there were steps since, they also average before the model is evaluated or saved and at the end of training.
    Parameters, floating-point buffers (such as running statistics) and optimizer states (such as momentum) are
    averaged. Evaluation therefore uses one model, and a checkpoint has the state of every process.

    The learning rate should suit the batch of one process. The method is from Stich, "Local SGD Converges Fast and
    Communicates Little" (https://arxiv.org/abs/1805.09767). Averaging the momentum too is from Yu, Jin and Yang, "On
    the Linear Speedup Analysis of Communication Efficient Momentum SGD for Distributed Non-Convex Optimization"
    (https://arxiv.org/abs/1905.03817).

    Args:
        average_every: The number of optimizer steps between two averages, at least 1; H in the first paper.
        kwargs: Arguments of leyden-ddp's ``ParallelStrategy``: ``process_group_backend``, ``timeout``,
            ``start_method``, ``uneven_inputs``.

    Raises:
        MisconfigurationException: ``average_every`` is not an int of at least 1.

    Example::

        trainer = Trainer(strategy=LocalSGDStrategy(average_every=16), devices=4)
    """

    strategy_name = "local_sgd"

    def __init__(self, average_every: int = 8, **kwargs: Any) -> None:
        if not isinstance(average_every, int) or isinstance(average_every, bool) or average_every < 1:
            raise MisconfigurationException(
                f"average_every={average_every!r} must be a number of optimizer steps, at least 1."
            )
        super().__init__(**kwargs)
        self.average_every = average_every
        self._steps = 0  # since the last average; the same in all processes
        self._has_stepped = False
        self._module: Module | None = None
        self._optimizers: list[Any] = []

    def setup_module(self, module: Module, training: bool = True) -> None:
        """Move the module to the device and give every process the weights of rank 0."""
        super().setup_module(module, training)
        self._module, self._steps, self._has_stepped, self._optimizers = module, 0, False, []
        for group in _grouped(_state_of(module)):
            flat = _flat(group)
            with self.collective("broadcast of the weights", flat):
                dist.broadcast(flat, 0)
            _unflatten(flat, group)

    def setup_optimizers(self, optimizers: list[Any]) -> list[Any]:
        """Keep the optimizers, whose states are averaged too."""
        self._optimizers = list(optimizers)
        return optimizers

    def convert_sync_batchnorm(self, module: Module) -> Module:
        """Refuse synchronised batch normalisation, which communicates in every step.

        Raises:
            MisconfigurationException: Always.
        """
        raise MisconfigurationException(
            "sync_batchnorm=True can't be used with local SGD, whose processes do not communicate within a step; leave "
            "it out (running statistics are averaged with the weights), or use strategy='ddp'."
        )

    def on_before_backward(self, loss: Tensor) -> None:
        """Do nothing, since gradients are not exchanged."""

    def on_after_backward(self) -> None:
        """Do nothing, since gradients are not exchanged."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Note that this batch has an optimizer step."""
        self._has_stepped = True

    @hookimpl(tryfirst=True)
    def on_train_batch_end(self) -> None:
        """Average if it is time. Runs first, so that callbacks see the averaged model."""
        self._steps += self._has_stepped
        self._has_stepped = False
        if self._steps >= self.average_every:
            self._average()

    @hookimpl(tryfirst=True)
    def on_validation_start(self) -> None:
        """Average, so that all processes evaluate the same model."""
        self._average()

    @hookimpl(tryfirst=True)
    def on_train_end(self) -> None:
        """Average, so that all processes end with the same model."""
        self._average()

    def module_state_dict(self, module: Module) -> dict[str, Any]:
        """Average and return the state; all processes continue with it, just as a run resumed from it does."""
        self._average()
        return super().module_state_dict(module)

    def teardown(self, module: Module | None = None, error: BaseException | None = None) -> None:
        """Drop the references to model and optimizers."""
        self._module, self._optimizers = None, []
        super().teardown(module, error)

    @torch.no_grad()
    def _average(self) -> None:
        """Average over all processes, if there were steps since the last average."""
        if not self._steps or self._module is None:
            return
        self._steps = 0
        for group in _grouped([*_state_of(self._module), *_states_of(self._optimizers)]):
            _unflatten(self.reduce(_flat(group), "mean"), group)


def _state_of(module: Module) -> list[Tensor]:
    """Return the floating-point parameters and buffers, without duplicates."""
    return [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]


def _states_of(optimizers: Iterable[Any]) -> list[Tensor]:
    """Return the optimizer states that have a parameter's shape, in the order of the parameters."""
    return [
        value
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        for value in optimizer.state.get(parameter, {}).values()
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point()
    ]


def _grouped(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Group tensors by dtype and device, in the same order in every process."""

    def kind(tensor: Tensor) -> tuple[str, str]:
        return str(tensor.dtype), str(tensor.device)

    return [list(group) for _, group in groupby(sorted(tensors, key=kind), kind)]


def _flat(tensors: list[Tensor]) -> Tensor:
    """Concatenate all tensors into one, so that one collective transfers them."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _unflatten(flat: Tensor, tensors: list[Tensor]) -> None:
    """Copy the elements of a flat tensor back into the tensors."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.detach().copy_(part.view_as(tensor))

"""LocalSGDStrategy: every process trains on its own, and all take the mean of their weights every few steps."""

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
    """Local SGD: processes talk once in ``average_every`` steps, where averaging gradients talks in each.

    All processes start from the weights of rank 0. They meet after every ``average_every``-th optimizer step, and if
    they have stepped since, before the model is evaluated or saved and at the end of training. Then each takes the mean
    of all parameters, of the floating-point buffers (running statistics, say) and of the optimizers' states (momentum,
    say). So evaluation sees one model, and a checkpoint is that of every process.

    The learning rate is for the batch of one process. The method is that of Stich, "Local SGD Converges Fast and
    Communicates Little" (https://arxiv.org/abs/1805.09767); that momentum is averaged too is that of Yu, Jin and Yang,
    "On the Linear Speedup Analysis of Communication Efficient Momentum SGD for Distributed Non-Convex Optimization"
    (https://arxiv.org/abs/1905.03817).

    Args:
        average_every: Optimizer steps from one mean to the next, at least 1; H in the first paper.
        kwargs: Those of leyden-ddp's ``ParallelStrategy``: ``process_group_backend``, ``timeout``, ``start_method``,
            ``uneven_inputs``.

    Raises:
        MisconfigurationException: ``average_every`` is no such number.

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
        self._steps = 0  # since the last mean; the same in all processes
        self._has_stepped = False
        self._module: Module | None = None
        self._optimizers: list[Any] = []

    def setup_module(self, module: Module, training: bool = True) -> None:
        """Move the module to the device and give every process the weights of rank 0."""
        super().setup_module(module, training)
        self._module, self._steps, self._has_stepped, self._optimizers = module, 0, False, []
        for group in _alike(_state_of(module)):
            flat = _flat(group)
            with self.collective("broadcast of the weights", flat):
                dist.broadcast(flat, 0)
            _unflatten(flat, group)

    def setup_optimizers(self, optimizers: list[Any]) -> list[Any]:
        """Remember the optimizers, whose states are averaged too."""
        self._optimizers = list(optimizers)
        return optimizers

    def convert_sync_batchnorm(self, module: Module) -> Module:
        """Refuse: it talks in every step.

        Raises:
            MisconfigurationException: Always.
        """
        raise MisconfigurationException(
            "sync_batchnorm=True: processes under local SGD do not talk within a step; leave it out (running "
            "statistics are averaged with the weights), or take strategy='ddp'."
        )

    def on_before_backward(self, loss: Tensor) -> None:
        """Gradients stay here, so that there is nothing to wait for."""

    def on_after_backward(self) -> None:
        """Gradients stay here."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """The batch leads to a step."""
        self._has_stepped = True

    @hookimpl(tryfirst=True)
    def on_train_batch_end(self) -> None:
        """Meet, if it is time; callbacks see the mean."""
        self._steps += self._has_stepped
        self._has_stepped = False
        if self._steps >= self.average_every:
            self._meet()

    @hookimpl(tryfirst=True)
    def on_validation_start(self) -> None:
        """All processes evaluate the same model."""
        self._meet()

    @hookimpl(tryfirst=True)
    def on_train_end(self) -> None:
        """All processes end with the same model."""
        self._meet()

    def module_state_dict(self, module: Module) -> dict[str, Any]:
        """The mean of all processes, which all go on with, as a run that is resumed from it would."""
        self._meet()
        return super().module_state_dict(module)

    def teardown(self, module: Module | None = None, error: BaseException | None = None) -> None:
        """Let go of model and optimizers."""
        self._module, self._optimizers = None, []
        super().teardown(module, error)

    @torch.no_grad()
    def _meet(self) -> None:
        """Take the mean of all processes, if they have stepped since they last did."""
        if not self._steps or self._module is None:
            return
        self._steps = 0
        for group in _alike([*_state_of(self._module), *_states_of(self._optimizers)]):
            _unflatten(self.reduce(_flat(group), "mean"), group)


def _state_of(module: Module) -> list[Tensor]:
    """Parameters and buffers that have a mean, each once."""
    return [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]


def _states_of(optimizers: Iterable[Any]) -> list[Tensor]:
    """What optimizers keep for each element of a parameter, in the order of the parameters."""
    return [
        value
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        for value in optimizer.state.get(parameter, {}).values()
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point()
    ]


def _alike(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """The tensors in groups of one type and device, in the same order in every process."""

    def kind(tensor: Tensor) -> tuple[str, str]:
        return str(tensor.dtype), str(tensor.device)

    return [list(group) for _, group in groupby(sorted(tensors, key=kind), kind)]


def _flat(tensors: list[Tensor]) -> Tensor:
    """The elements of all tensors in one, so that they travel together."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _unflatten(flat: Tensor, tensors: list[Tensor]) -> None:
    """Put the elements back into the tensors."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.detach().copy_(part.view_as(tensor))

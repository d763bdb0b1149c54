"""The same weights on all ranks: those of rank 0 count, and a model of another shape is refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy

from leyden.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from leyden_ddp.parallel import ParallelStrategy

_BYTES = 250 * 2**20  # that are sent at once
_IGNORED = "_ddp_params_and_buffers_to_ignore"  # where DistributedDataParallel looks for names that it leaves alone


def compare_tensors(module: Module, strategy: ParallelStrategy, training: bool) -> None:
    """Refuse models whose parameters and buffers are not those of rank 0; all ranks call this together.

    Args:
        module: The module.
        strategy: The strategy whose collectives are used.
        training: Whether the same parameters must be trained.

    Raises:
        MisconfigurationException: A rank has others, or some of another shape or type.
    """
    own = {name: _describe(tensor, training) for name, tensor in _tensors(module).items()}
    if len(set(strategy.all_gather_object(repr(own)))) == 1:
        return
    first, *others = strategy.all_gather_object(own)
    for rank, other in enumerate(others, 1):
        for name in [*first, *other]:
            if first.get(name) != other.get(name):
                raise MisconfigurationException(
                    f"The models of the ranks differ: {name} is {first.get(name, 'missing')} on rank 0 and "
                    f"{other.get(name, 'missing')} on rank {rank}; build the same model on all ranks."
                )
    raise MisconfigurationException(
        "The models of the ranks have their parameters in different orders; build the same model on all ranks."
    )


def _describe(tensor: Tensor, training: bool) -> str:
    trained = ", which is trained" if training and tensor.requires_grad else ""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}{trained}"


def take_from_rank_zero(tensors: Iterable[Tensor], strategy: ParallelStrategy) -> None:
    """Copy tensors of rank 0 to those of the other ranks; all ranks call this together.

    Args:
        tensors: The same ones on all ranks, on their devices.
        strategy: The strategy whose collectives are used.
    """
    sent = [tensor.detach() for tensor in tensors if tensor.numel()]
    if not sent or strategy.world_size == 1:
        return
    whole = [tensor.contiguous() for tensor in sent]
    with strategy.collective("the broadcast of rank 0's weights"), torch.no_grad():
        group: Any = strategy.exchange_group or dist.group.WORLD
        as_bytes = [tensor.view(-1).view(torch.uint8) for tensor in whole]  # some backends do not know all types
        dist._broadcast_coalesced(group, as_bytes, _BYTES, 0)
        for tensor, received in zip(sent, whole, strict=True):
            if not tensor.is_contiguous():
                tensor.copy_(received)


def tensors_of(module: Module) -> Iterable[Tensor]:
    """The parameters and buffers that must be the same on all ranks."""
    return _tensors(module).values()


def _tensors(module: Module) -> dict[str, Tensor]:
    ignored = set(getattr(module, _IGNORED, ()))
    named = dict([*module.named_parameters(), *module.named_buffers()])
    return {
        name: each for name, each in named.items() if name not in ignored and not is_lazy(each) and not each.is_meta
    }

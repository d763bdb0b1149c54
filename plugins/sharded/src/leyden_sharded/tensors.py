"""From a tensor's parts on the processes to the whole of it, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor in every process; a collective call where it is divided."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of the whole ``value``, divided as ``like`` is; no communication."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    value = value.detach().to(like.device_mesh.device_type)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None).to(like.device)


def gathered(tree: Any, keep: bool) -> Any:
    """A state in which every divided tensor is whole and on the host.

    Args:
        tree: The state; all processes call this with the same one.
        keep: Whether this process gets the tensors. Others get tensors of the same shapes that take no memory.
    """

    def gather(tensor: Tensor) -> Tensor:
        full = whole(tensor.detach())
        return full.cpu() if keep else torch.empty_like(full, device="meta")

    return tree_map_only(Tensor, gather, tree)

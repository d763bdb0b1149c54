"""Divided tensors: from the parts on the processes to the whole tensor, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, in every process; for a divided tensor all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of the whole tensor ``value``, divided in the way of ``like``; it communicates nothing."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    value = value.detach().to(like.device_mesh.device_type)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None).to(like.device)


def gathered(tree: Any, keep: bool) -> Any:
    """Make every tensor of a state whole and move it to the host; called by all processes.

    Args:
        tree: The state, with the same tensors in every process.
        keep: Whether this process gets the tensors. If not, it gets meta tensors of the same shapes.
    """

    def gather(tensor: Tensor) -> Tensor:
        full = whole(tensor.detach())
        return full.cpu() if keep else torch.empty_like(full, device="meta")

    return tree_map_only(Tensor, gather, tree)

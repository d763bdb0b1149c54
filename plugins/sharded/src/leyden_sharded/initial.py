"""The values with which a model starts: the same in every process, also where it was built without any."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Module, Parameter

from leyden.utilities.exceptions import MisconfigurationException
from leyden_sharded.tensors import part_of


def take_from_rank_zero(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Give tensors that every process has as a whole the values of rank 0; those on the meta device have none.

    Args:
        tensors: The same ones in every process.
        device: Where the backend of the process group communicates.
    """
    if dist.get_world_size() == 1:
        return
    with torch.no_grad():
        for tensor in tensors:
            if isinstance(tensor, DTensor) or tensor.is_meta:
                continue
            moved = tensor.detach().to(device).contiguous()
            dist.broadcast(moved, 0)
            tensor.copy_(moved)


def materialise(module: Module, device: torch.device, communicates: torch.device) -> set[str]:
    """Give parameters and buffers that are on the meta device memory, and the values that ``reset_parameters`` gives.

    One submodule's tensors after another are made whole, reset, made those of rank 0, and divided: what a process
    needs at once is the largest of them.

    Args:
        module: What is divided already, where it is to be.
        device: Where the tensors are to live.
        communicates: Where the backend of the process group communicates.

    Returns:
        The names of those for which there was no ``reset_parameters``; their values are arbitrary.
    """
    unset: set[str] = set()
    for prefix, part in _inner_first(module):
        tensors = {**part._parameters, **part._buffers}
        meta = {name: tensor for name, tensor in tensors.items() if tensor is not None and tensor.is_meta}
        if not meta:
            continue
        values = _reset(part, meta, communicates)
        unset.update(f"{prefix}{name}" for name in meta if name not in values)
        take_from_rank_zero(values.values(), communicates)
        others = {name: t.detach().clone() for name, t in tensors.items() if t is not None and name not in meta}
        part.to_empty(device=device, recurse=False)  # all of the part's own, those too that have values
        with torch.no_grad():
            for name, value in {**others, **values}.items():
                target = getattr(part, name)
                target.copy_(part_of(value, target))
    return unset


def refuse_unset(unset: set[str]) -> None:
    """Raise if there are tensors that nothing gave a value."""
    if unset:
        raise MisconfigurationException(
            f"{', '.join(sorted(unset))}: made on the meta device, and their module has no reset_parameters that would "
            "give them values. Write one, or make them on another device, or fit from a checkpoint that has them."
        )


def _inner_first(module: Module, prefix: str = "") -> Iterable[tuple[str, Module]]:
    """Submodules before the module that they are in, the order in which constructors come to their end."""
    seen: set[Module] = set()

    def visit(part: Module, name: str) -> Iterable[tuple[str, Module]]:
        if part in seen:
            return
        seen.add(part)
        for child_name, child in part.named_children():
            yield from visit(child, f"{name}{child_name}.")
        yield name, part

    return visit(module, prefix)


def _reset(part: Module, meta: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The values that ``reset_parameters`` gives, as whole tensors; none where there is no such method."""
    reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
    if not callable(reset):
        return {}
    registered: dict[str, Any] = {
        name: part._parameters if name in part._parameters else part._buffers for name in meta
    }
    for name, tensor in meta.items():
        empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        registered[name][name] = Parameter(empty, tensor.requires_grad) if isinstance(tensor, Parameter) else empty
    try:
        reset()
        return {name: value.detach() for name in meta if (value := registered[name][name]) is not None}
    finally:
        for name, tensor in meta.items():
            registered[name][name] = tensor

"""The initial values of a model: the same in every process, also if it was built on the meta device."""

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
    """Copy the values of rank 0 to the whole tensors of all processes; tensors on the meta device are left out.

    Args:
        tensors: The same tensors in every process.
        device: The device on which the backend of the process group communicates.
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
    """Give memory and the values of ``reset_parameters`` to parameters and buffers on the meta device.

    This is done for one submodule after another: its tensors are made whole, reset, set to those of rank 0, and
    divided. So a process needs memory for the whole tensors of the largest submodule only.

    Args:
        module: The module; what is to be divided is divided already.
        device: The device for the tensors.
        communicates: The device on which the backend of the process group communicates.

    Returns:
        The names of tensors for which there was no ``reset_parameters``; their values are arbitrary.
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
        part.to_empty(
            device=device, recurse=False
        )  # this moves all tensors of the submodule, also those that have values
        with torch.no_grad():
            for name, value in {**others, **values}.items():
                target = getattr(part, name)
                target.copy_(part_of(value, target))
    return unset


def refuse_unset(unset: set[str]) -> None:
    """Raise if there are tensors that have no value.

    Args:
        unset: The names of these tensors.

    Raises:
        MisconfigurationException: There is such a tensor.
    """
    if unset:
        raise MisconfigurationException(
            f"{', '.join(sorted(unset))}: made on the meta device, but their module has no reset_parameters that gives "
            "them values. Write one, make them on another device, or fit from a checkpoint that has them."
        )


def _inner_first(module: Module, prefix: str = "") -> Iterable[tuple[str, Module]]:
    """All submodules with their prefixes, inner ones first: the order in which constructors end."""
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
    """The values that ``reset_parameters`` gives to tensors, as whole tensors; {} if there is no such method."""
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

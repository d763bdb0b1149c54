"""Accumulated gradients in checkpoints: what is saved between two optimizer steps, and restored from there.

While gradients are accumulated without being exchanged, FSDP keeps them whole in each process, and not in
``parameter.grad``. A checkpoint holds those of every process, as it does under strategies that divide nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Module

from leyden_ddp.parallel import ParallelStrategy
from leyden_sharded.directory import stand_in
from leyden_sharded.sharding import Sharding
from leyden_sharded.tensors import gathered, part_of, whole


def add(
    strategy: ParallelStrategy, module: Module, sharding: Sharding | None, ranks: list[Any], in_shards: bool
) -> dict[str, Tensor]:
    """Add the gradients of all processes to their states in a checkpoint; called by all processes.

    Args:
        strategy: The strategy.
        module: The divided module.
        sharding: What divides it; None if FSDP does not.
        ranks: The states of the processes. Their "gradients" have the names of parameters with a gradient.
        in_shards: Whether the gradients are stored in shards; the states then get their keys.

    Returns:
        The gradients that this process stores in shards, by key.
    """
    wanted = [(name, p.grad) for name, p in module.named_parameters() if name in ranks[0]["gradients"]]
    shared: dict[str, Tensor] = {name: grad.detach() for name, grad in wanted if isinstance(grad, DTensor)}
    own = _accumulated(module, sharding) if sharding is not None else {}
    if not strategy.reduce_boolean_decision(bool(own or shared), all=False):
        return {}
    if in_shards:
        for rank, names in enumerate(strategy.all_gather_object(list(own))):
            keys = {**{name: f"gradients/{name}" for name in shared}, **{n: f"gradients/{rank}/{n}" for n in names}}
            ranks[rank]["gradients"].update({name: stand_in(key) for name, key in keys.items()})
        mine = {f"gradients/{strategy.global_rank}/{name}": gradient for name, gradient in own.items()}
        return {**mine, **{f"gradients/{name}": gradient for name, gradient in shared.items()}}
    everyones: list[Any] = [None] * len(ranks)
    dist.gather_object(own, everyones if strategy.is_global_zero else None)
    shared = gathered(shared, strategy.is_global_zero)
    for state, theirs in zip(ranks, everyones, strict=True):
        state["gradients"].update({**shared, **(theirs or {})})
    return {}


def _accumulated(module: Module, sharding: Sharding) -> dict[str, Tensor]:
    """The gradients of this process that have not been exchanged yet, as whole tensors, by parameter name."""
    sharding.divide()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = {}
    for part in _fsdp_parameters(sharding):
        kept = part.unsharded_accumulated_grad
        gradient = kept if kept is not None else getattr(getattr(part, "_unsharded_param", None), "grad", None)
        if gradient is not None:
            found[names[id(part.sharded_param)]] = whole(gradient.detach()).cpu()
    return found


def put_back(module: Module, sharding: Sharding | None, gradients: dict[str, Tensor], is_automatic: bool) -> None:
    """Restore the gradients of a checkpoint.

    Args:
        module: The divided module.
        sharding: What divides it; None if FSDP does not.
        gradients: Whole tensors, by parameter name.
        is_automatic: Whether they have not been exchanged yet, as in an accumulation of automatic optimisation.
    """
    accumulated: dict[int, Any] = {}
    if sharding is not None and is_automatic:
        sharding.gather_once()  # FSDP makes the tensors for whole gradients when it first gathers
        accumulated = {id(part.sharded_param): part for part in _fsdp_parameters(sharding)}
    for name, parameter in module.named_parameters():
        if name not in gradients:
            continue
        part = accumulated.get(id(parameter))
        if part is None:
            parameter.grad = part_of(gradients[name], parameter).to(parameter.device)
        else:
            like = part.unsharded_param
            gradient = gradients[name].to(device=like.device, dtype=part.reduce_dtype or like.dtype)
            part.unsharded_accumulated_grad = part_of(gradient, like)


def drop(sharding: Sharding) -> None:
    """Remove gradients that an earlier run has left in the middle of an accumulation."""
    for part in _fsdp_parameters(sharding):
        part.unsharded_accumulated_grad = None
        if (parameter := getattr(part, "_unsharded_param", None)) is not None:
            parameter.grad = None


def _fsdp_parameters(sharding: Sharding) -> Iterator[Any]:
    """FSDP's own object for each parameter; FSDP has no public access to accumulated gradients."""
    for part in sharding.parts:
        state = part._get_fsdp_state()
        for group in getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]:
            yield from group.fsdp_params if group is not None else ()

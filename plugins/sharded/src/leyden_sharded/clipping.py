"""Clipping gradients that are divided among the processes, some of them in different ways."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from leyden_sharded.tensors import whole


def clip_gradients(parameters: Iterable[Tensor], clip_val: float, algorithm: str) -> Tensor | None:
    """Clip by the norm of all gradients together ("norm") or by element ("value").

    PyTorch's own functions take tensors of a single mesh; with tensor parallelism a model has tensors of several.

    Args:
        parameters: The parameters, the same ones in every process; those without a gradient are left out.
        clip_val: The bound.
        algorithm: "norm" or "value".

    Returns:
        The norm of all gradients before clipping, the same in every process; None for "value".
    """
    by_mesh: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            mesh = parameter.grad.device_mesh if isinstance(parameter.grad, DTensor) else None
            by_mesh.setdefault(mesh, []).append(parameter)
    if algorithm == "value":
        for group in by_mesh.values():
            clip_grad_value_(group, clip_val)
        return None
    norms = [whole(get_total_norm([p.grad for p in group if p.grad is not None])) for group in by_mesh.values()]
    if not norms:
        return torch.zeros(())
    total: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
    for group in by_mesh.values():
        clip_grads_with_norm_(group, clip_val, total)
    return total

"""Norms of gradients, for logging."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Module


def grad_norm(module: Module, norm_type: float | int | str, group_separator: str = "/") -> dict[str, Tensor]:
    """Compute the norm of each parameter's gradient and of all gradients together.

    Args:
        module: The module with the parameters.
        norm_type: The p of the p-norm, or "inf".
        group_separator: Text between "grad_2.0_norm" and the parameter's name.

    Returns:
        ``{"grad_2.0_norm/layer.weight": …, "grad_2.0_norm_total": …}`` with scalar tensors on the parameters' device;
        {} if no parameter has a gradient.

    Raises:
        ValueError: ``norm_type`` is not positive.
    """
    p = float(norm_type)
    if p <= 0:
        raise ValueError(f"norm_type={norm_type!r} must be a positive number or 'inf'.")
    norms = {
        f"grad_{p}_norm{group_separator}{name}": parameter.grad.detach().norm(p)
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    if norms:
        norms[f"grad_{p}_norm_total"] = torch.stack(list(norms.values())).norm(p)
    return norms

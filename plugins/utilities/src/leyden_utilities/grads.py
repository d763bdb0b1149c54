"""Norms of gradients, for logging."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Module


def grad_norm(module: Module, norm_type: float | int | str, group_separator: str = "/") -> dict[str, Tensor]:
    """The norm of each parameter's gradient, and of all together, on the parameters' device.

    Args:
        module: Whose parameters.
        norm_type: The p of the p-norm, or "inf".
        group_separator: Between "grad_2.0_norm" and the parameter's name.

    Returns:
        ``{"grad_2.0_norm/layer.weight": …, "grad_2.0_norm_total": …}``; {} where nothing has a gradient.

    Raises:
        ValueError: The p is not positive.
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

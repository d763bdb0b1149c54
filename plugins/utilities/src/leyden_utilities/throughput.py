"""Counts a model's floating-point operations, for the throughput of a run."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import Module
from torch.utils.flop_counter import FlopCounterMode


def measure_flops(
    model: Module, forward_fn: Callable[[], Tensor], loss_fn: Callable[[Tensor], Tensor] | None = None
) -> int:
    """Count the floating-point operations of one forward pass and, with a loss, one backward pass.

    On the meta device this takes almost no memory and time: build model and batch under ``torch.device("meta")``.

    Args:
        model: The model.
        forward_fn: A function that calls the model, e.g. ``lambda: model(batch)``.
        loss_fn: A function that computes the loss from the output; without it only the forward pass counts.

    Returns:
        The number of multiplications plus the number of additions.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        output = forward_fn()
        if loss_fn is not None:
            loss_fn(output).backward()
    return counter.get_total_flops()

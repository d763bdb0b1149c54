"""How much a model computes, for the throughput of a run."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import Module
from torch.utils.flop_counter import FlopCounterMode


def measure_flops(
    model: Module, forward_fn: Callable[[], Tensor], loss_fn: Callable[[Tensor], Tensor] | None = None
) -> int:
    """The floating-point operations of one forward pass, and of one backward pass where there is a loss.

    On the meta device this takes no memory and no time to speak of: build model and batch under
    ``torch.device("meta")``.

    Args:
        model: What computes.
        forward_fn: Calls the model, e.g. ``lambda: model(batch)``.
        loss_fn: Makes a loss of what ``forward_fn`` returns; without it only the forward pass counts.

    Returns:
        Multiplications and additions, each counted.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        output = forward_fn()
        if loss_fn is not None:
            loss_fn(output).backward()
    return counter.get_total_flops()

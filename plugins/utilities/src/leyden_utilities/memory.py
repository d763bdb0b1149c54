"""Memory: detaches tensors, and recognises errors of too little memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


def recursive_detach(in_dict: Any, to_cpu: bool = False) -> Any:
    """Return the collection with every tensor detached from its graph.

    Args:
        in_dict: A dict, or any nesting of dicts, lists and tuples.
        to_cpu: Whether to move the tensors to the CPU too.
    """
    return tree_map_only(Tensor, lambda tensor: tensor.detach().cpu() if to_cpu else tensor.detach(), in_dict)


def is_oom_error(exception: BaseException) -> bool:
    """Whether an exception means that a device or the host ran out of memory."""
    return isinstance(exception, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(exception, RuntimeError) and "can't allocate memory" in str(exception)
    )

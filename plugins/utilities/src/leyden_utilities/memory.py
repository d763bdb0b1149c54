"""Memory: letting go of graphs and devices, and telling that there was too little."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


def recursive_detach(in_dict: Any, to_cpu: bool = False) -> Any:
    """The same collection with every tensor detached from its graph.

    Args:
        in_dict: A dict, or any nesting of dicts, lists and tuples.
        to_cpu: Whether tensors are moved to the host too.
    """
    return tree_map_only(Tensor, lambda tensor: tensor.detach().cpu() if to_cpu else tensor.detach(), in_dict)


def is_oom_error(exception: BaseException) -> bool:
    """Whether an exception says that memory ran out, a device's or the host's."""
    return isinstance(exception, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(exception, RuntimeError) and "can't allocate memory" in str(exception)
    )

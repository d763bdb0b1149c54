"""Functions for batches of nested collections: moving them to a device and finding their size."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_warn


def move_data_to_device(batch: Any, device: torch.device | str, non_blocking: bool = False) -> Any:
    """Move every tensor of a batch, and every other object with a method ``to(device)``, to a device.

    Args:
        batch: A tensor or any nesting of lists, tuples, named tuples, mappings and dataclasses.
        device: The device to move to.
        non_blocking: Whether the function may return before copies from pinned memory are done. This is safe for a
            device that queues its work, and never safe for copies to the CPU.

    Returns:
        The batch on the device. Collections are rebuilt with their own types; values that can't be moved are unchanged.
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=non_blocking)
    if type(batch) in (tuple, list):
        return type(batch)([move_data_to_device(value, device, non_blocking) for value in batch])
    to = getattr(batch, "to", None)
    if callable(to) and not isinstance(batch, type):
        moved = to(device)
        return batch if moved is None else moved
    return map_collection(batch, lambda value: move_data_to_device(value, device, non_blocking))


def map_collection(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply ``function`` to the direct members of a collection and rebuild it; return any other value unchanged."""
    if isinstance(value, Mapping):
        pairs = [(k, function(v)) for k, v in value.items()]
        default = getattr(value, "default_factory", None)
        return type(value)(default, pairs) if default is not None else type(value)(pairs)  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(function(v) for v in value))
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return type(value)([function(v) for v in value])  # type: ignore[call-arg]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        copied = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(copied, field.name, function(getattr(value, field.name)))
        return copied
    return value


def extract_batch_size(batch: Any) -> int:
    """Return the first dimension of the first tensor in a batch, in the order of its fields.

    Warns if tensors have different first dimensions, since the weights of epoch means then depend on their order.

    Raises:
        MisconfigurationException: There is no tensor; the user must pass ``self.log(..., batch_size=n)``.
    """
    sizes = _sizes(batch)
    size = next(sizes, None)
    if size is None:
        raise MisconfigurationException(
            f"No batch size was found in a batch of type {type(batch).__name__}; say it: self.log(..., batch_size=n)."
        )
    if any(other != size for other in sizes):
        rank_zero_warn(
            f"The batch's tensors disagree about its size; {size} is taken. Say it: self.log(..., batch_size=n)."
        )
    return size


def _sizes(value: Any) -> Iterator[int]:
    """The first dimension of each tensor in any nesting of collections."""
    if isinstance(value, Tensor):
        yield value.size(0) if value.dim() else 1
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(map(_sizes, value.values()))
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        yield from chain.from_iterable(map(_sizes, value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _sizes([getattr(value, field.name) for field in dataclasses.fields(value)])

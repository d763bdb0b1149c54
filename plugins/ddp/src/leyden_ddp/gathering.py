"""Gathering from all ranks: tensors must have the same size everywhere, and what is no tensor becomes a list."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from itertools import zip_longest
from numbers import Number
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from leyden.utilities.batch import map_collection
from leyden.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from leyden_ddp.parallel import ParallelStrategy


def gather_collection(strategy: ParallelStrategy, data: Any, group: Any, sync_grads: bool) -> Any:
    """Gather a collection; see :meth:`leyden.strategies.Strategy.gather_collection`."""
    leaves = [
        torch.as_tensor(leaf, device=strategy.root_device) if _is_number(leaf) else leaf for leaf in _leaves_of(data)
    ]
    if len(leaves) == 1 and isinstance(leaves[0], Tensor):
        return _with_leaves(data, [strategy.all_gather(leaves[0], group, sync_grads)])
    refuse_other_sizes(strategy, [_describe(leaf) for leaf in leaves], group)
    objects = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
    told = strategy.all_gather_object(objects, group) if objects else []
    by_leaf = map(list, zip(*told, strict=True))
    gathered = [
        strategy.stack(leaf, group, sync_grads) if isinstance(leaf, Tensor) else next(by_leaf) for leaf in leaves
    ]
    return _with_leaves(data, gathered)


def refuse_other_sizes(strategy: ParallelStrategy, sizes: list[str], group: Any = None) -> None:
    """Refuse ranks that are about to gather tensors of other sizes, or other things; all of them call this together.

    Args:
        strategy: The strategy whose collectives are used.
        sizes: What this rank gathers, in words.
        group: The ranks that gather; None for all.

    Raises:
        MisconfigurationException: They differ; the message has the sizes and their ranks.
    """
    number = zlib.crc32(repr(sizes).encode())
    both = torch.tensor([number, -number], device=strategy.root_device)
    dist.all_reduce(both, dist.ReduceOp.MAX, group=group or strategy.exchange_group)
    if both.tolist() == [number, -number]:
        return
    told = strategy.all_gather_object(sizes, group)
    ranks = range(len(told)) if group is None else dist.get_process_group_ranks(group)
    have = next(each for each in zip_longest(*told, fillvalue="nothing") if len(set(each)) > 1)
    raise MisconfigurationException(
        "all_gather needs tensors of the same size and type on all ranks, but there is "
        f"{', '.join(f'{what} on rank {rank}' for rank, what in zip(ranks, have, strict=True))}. Pad them to one size, "
        "or gather them by trainer.strategy.all_gather_object."
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (Tensor, Number)) or hasattr(value, "__array__")


def _describe(leaf: Any) -> str:
    if isinstance(leaf, Tensor):
        return f"{str(leaf.dtype).removeprefix('torch.')}{list(leaf.shape)}"
    return "what is no tensor"


def _leaves_of(data: Any) -> list[Any]:
    leaves: list[Any] = []
    _map_leaves(data, leaves.append)
    return leaves


def _with_leaves(data: Any, leaves: list[Any]) -> Any:
    following: Iterator[Any] = iter(leaves)
    return _map_leaves(data, lambda _: next(following))


def _map_leaves(value: Any, function: Callable[[Any], Any]) -> Any:
    """A collection with ``function(leaf)`` for each of its leaves."""
    if _is_number(value) or isinstance(value, (str, bytes)) or value is None:
        return function(value)
    members = 0

    def within(member: Any) -> Any:
        nonlocal members
        members += 1
        return _map_leaves(member, function)

    mapped = map_collection(value, within)
    return function(value) if mapped is value and not members else mapped

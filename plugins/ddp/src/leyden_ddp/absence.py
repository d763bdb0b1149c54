"""Evaluation in which processes have different numbers of batches, or none: all reduce what any of them has logged.

Epoch values are reduced name by name, by collectives that all processes enter in one order. A process without a batch
has logged nothing, so at the end of an uneven loader the processes tell each other what they have logged, and each
makes the records that it lacks. What some have no values of is reduced right there, of those that have some.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Module

from leyden.results import LogOptions, MetricRecord, Record, Results, TensorRecord
from leyden.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from leyden_ddp.parallel import ParallelStrategy

_NOTHING = {"mean": 0.0, "sum": 0.0, "custom": 0.0, "min": math.inf, "max": -math.inf}


@dataclass
class Outline:
    """What another process must know of a record to take part in its reduction.

    Args:
        key: Under which :class:`Results` keeps it.
        options: Its options, as plain data.
        value: For numbers: a tensor of the shape and type that are reduced.
        metric: For a torchmetrics object: its name in the module; None where it has none.
        states: For a torchmetrics object: an empty tensor for each list that it collects.
        members: The ranks that reduce it; None for all.
        is_closed: Whether a process that has collected nothing can't take part.
    """

    key: tuple[str, str, int | None]
    options: LogOptions
    value: Tensor | None = None
    metric: str | None = None
    states: dict[str, Tensor] | None = None
    members: list[int] | None = None
    is_closed: bool = False


def are_uneven(batches: Sequence[int | float]) -> bool:
    """Whether the processes have different numbers of batches, or may have."""
    return len(batches) > 1 and (len(set(batches)) > 1 or math.inf in batches)


def complete(strategy: ParallelStrategy, results: Results, module: Module) -> None:
    """Have all processes hold the same records of the current loader, in one order; all of them call this at once.

    Args:
        strategy: Its collectives are used.
        results: Where the records are.
        module: Whose metrics may be among them.

    Raises:
        MisconfigurationException: A process can't take part in a reduction without values of its own.
    """
    modules = {id(part): name for name, part in module.named_modules()}
    records = [(key, record) for key, record in results.records.items() if key[2] == results.dataloader_idx]
    own = [_outline(key, record, modules) for key, record in records if _is_shared(record)]
    outlines: dict[tuple[str, str, int | None], Outline] = {}
    holders: dict[tuple[str, str, int | None], list[int]] = defaultdict(list)
    for rank, said in enumerate(strategy.all_gather_object(own)):
        for outline in said:
            outlines.setdefault(outline.key, outline)
            holders[outline.key].append(rank)
    for key, outline in outlines.items():
        everyone = range(strategy.world_size) if outline.members is None else outline.members
        if absent := [rank for rank in everyone if rank not in holders[key]]:
            _refuse_what_cannot_be(outline, absent)
        record = results.records.pop(key, None)
        if record is None and strategy.global_rank in everyone:
            record = _nothing_of(strategy, module, outline)
        if record is not None:
            results.records[key] = record
        if absent and isinstance(record, TensorRecord):
            record.final = _reduce(strategy, outline, record, len(holders[key]))


def _is_shared(record: Record) -> bool:
    """Whether a record's epoch value is still to be reduced over processes."""
    options = record.options
    if isinstance(record, MetricRecord):
        return bool(options.on_epoch) and record.metric is not None and record.metric.sync_on_compute
    assert isinstance(record, TensorRecord)
    is_reduced = options.sync_dist and not options.rank_zero_only and not record.reduces_at_once
    return is_reduced and record.own_value() is not None


def _outline(key: tuple[str, str, int | None], record: Record, modules: dict[int, str]) -> Outline:
    group, options = record.options.sync_dist_group, record.options._replace(reduce_fx="", sync_dist_group=None)
    if isinstance(record, MetricRecord):
        states, is_closed = _lists(record.metric)
        return Outline(key, options, metric=modules.get(id(record.metric)), states=states, is_closed=is_closed)
    assert isinstance(record, TensorRecord)
    value = record.own_value()
    return Outline(
        key, options._replace(reduce_fx=record.reduction), torch.zeros_like(value, device="cpu"),
        members=None if group is None else torch.distributed.get_process_group_ranks(group),
    )  # fmt: skip


def _lists(metric: Any) -> tuple[dict[str, Tensor], bool]:
    """An empty tensor like those in each list that a metric collects; whether one of the lists can't be empty."""
    lists = {name: getattr(metric, name) for name, default in metric._defaults.items() if isinstance(default, list)}
    joined = {name for name, reduction in metric._reductions.items() if reduction is not None}
    own_way = type(metric)._sync_dist is not sys.modules["torchmetrics"].Metric._sync_dist
    states = {
        name: torch.empty_like(values[0], device="cpu")[:0]
        for name, values in lists.items()
        if name in joined and values and isinstance(values[0], Tensor) and values[0].dim()
    }
    return states, not own_way and any(values and name not in states for name, values in lists.items())


def _refuse_what_cannot_be(outline: Outline, absent: list[int]) -> None:
    name = outline.key[1]
    said = f"self.log({name!r}, …): process {absent[0]} has not logged it, for want of a batch say"
    if outline.members is not None:
        raise MisconfigurationException(
            f"{said}, so it does not know the sync_dist_group in which it is reduced; leave sync_dist_group out, or "
            "take fewer devices."
        )
    if outline.value is None and (outline.metric is None or outline.is_closed):
        why = "is no attribute of the module" if outline.metric is None else "collects lists that can't be joined"
        raise MisconfigurationException(f"{said}, and a metric that {why} needs all processes; take fewer devices.")


def _nothing_of(strategy: ParallelStrategy, module: Module, outline: Outline) -> Record:
    """A record without values, for what the others have logged."""
    options = outline.options
    name, dataloader_idx = outline.key[1:]
    if outline.value is None:
        assert outline.metric is not None
        metric_record = MetricRecord(name, options, options, dataloader_idx, strategy)
        metric: Any = module.get_submodule(outline.metric)
        if not metric.update_called:
            for state, empty in (outline.states or {}).items():
                setattr(metric, state, [empty.to(metric.device)])
            metric._update_count = 1  # torchmetrics warns of a metric that has seen nothing
        metric_record.update(metric, 0)
        return metric_record
    return TensorRecord(name, options, options, dataloader_idx, strategy)


def _reduce(strategy: ParallelStrategy, outline: Outline, record: TensorRecord, count: int) -> Tensor:
    """The epoch's value over all processes, of which ``count`` have values of their own."""
    own = record.own_value()
    if own is None:
        assert outline.value is not None
        own = torch.full_like(outline.value, _NOTHING[record.reduction]).to(strategy.root_device)
    if record.reduction in ("min", "max"):
        return strategy.reduce(own, record.reduction)
    total = strategy.reduce(own, "sum")
    if record.reduction == "mean":
        return total / strategy.reduce(torch.tensor(record.weight), "sum")
    return total / count if record.reduction == "custom" else total

"""Epochs in which the processes have logged different names, since some had no batch, say.

Values of an epoch are reduced name by name, by collectives that all processes must enter in the same order. So if
their names differ, the processes tell each other what they have logged, and each makes the records that it lacks. If
some processes have no values of a name, the name is reduced at once, over the values of the others.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leyden.plugins import LogOptions, Record, Results, TensorRecord
from leyden.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from leyden_ddp.parallel import ParallelStrategy

_NOTHING = {"mean": 0.0, "sum": 0.0, "custom": 0.0, "min": math.inf, "max": -math.inf}


@dataclass
class Outline:
    """What another process must know of a record to take part in its reduction.

    Args:
        key: The key under which :class:`Results` keeps the record.
        options: The options of the record, as plain data.
        kind: The name of the record's component; None for the core's record of numbers.
        own: For numbers, a tensor of the shape and type that are reduced. For other records, what
            :meth:`Record.outline` returned.
        members: The ranks that reduce the record; None for all.
    """

    key: tuple[str, str, int | None]
    options: LogOptions
    kind: str | None
    own: Tensor | dict[str, Any] | str
    members: list[int] | None = None


def outlines_of(results: Results) -> list[Outline]:
    """The records of the current loader that are yet to be reduced over processes, in their order."""
    records = [(key, record) for key, record in results.records.items() if key[2] == results.dataloader_idx]
    return [outline for key, record in records if (outline := _outline(key, record)) is not None]


def complete(strategy: ParallelStrategy, results: Results, own: Sequence[Outline]) -> None:
    """Give all processes the same records of the current loader, in the same order; all of them call this together.

    Args:
        strategy: The strategy whose collectives are used.
        results: The records of this process.
        own: Their outlines.

    Raises:
        MisconfigurationException: A process without values of a name can't take part in its reduction.
    """
    outlines: dict[tuple[str, str, int | None], Outline] = {}
    holders: dict[tuple[str, str, int | None], list[int]] = defaultdict(list)
    for rank, said in enumerate(strategy.all_gather_object(own)):
        for outline in said:
            outlines.setdefault(outline.key, outline)
            holders[outline.key].append(rank)
    for key, outline in outlines.items():
        everyone = range(strategy.world_size) if outline.members is None else outline.members
        if absent := [rank for rank in everyone if rank not in holders[key]]:
            _refuse_absence(outline, absent)
        record = results.records.pop(key, None)
        if record is None and strategy.global_rank in everyone:
            record = _empty_record(results, outline)
        if record is not None:
            results.records[key] = record
        if absent and isinstance(record, TensorRecord):
            record.final = _reduce(strategy, outline, record, len(holders[key]))


def _outline(key: tuple[str, str, int | None], record: Record) -> Outline | None:
    """What other processes must know of a record; None if its epoch's value need not be reduced any more."""
    if record.final is not None:
        return None
    group, options = record.options.sync_dist_group, record.options._replace(reduce_fx="", sync_dist_group=None)
    if not isinstance(record, TensorRecord):
        own = record.outline()
        return None if own is None else Outline(key, options, record.kind, own)
    value = record.own_value() if options.sync_dist and not options.rank_zero_only else None
    if value is None:
        return None
    return Outline(
        key, options._replace(reduce_fx=record.reduction), record.kind, torch.zeros_like(value, device="cpu"),
        members=None if group is None else torch.distributed.get_process_group_ranks(group),
    )  # fmt: skip


def _refuse_absence(outline: Outline, absent: list[int]) -> None:
    name = outline.key[1]
    said = f"self.log({name!r}, …): process {absent[0]} has not logged it, perhaps because it had no batch"
    if outline.members is not None:
        raise MisconfigurationException(
            f"{said}, so it does not know the sync_dist_group in which it is reduced; leave sync_dist_group out, or "
            "take fewer devices."
        )
    if isinstance(outline.own, str):
        raise MisconfigurationException(f"{said}, and {outline.own}; take fewer devices.")


def _empty_record(results: Results, outline: Outline) -> Record:
    """A record without values, for a name that only other processes have logged."""
    record = results.new_record(outline.kind, outline.key[1], outline.options, outline.options)
    if isinstance(outline.own, dict):
        record.take_part(outline.own)
    return record


def _reduce(strategy: ParallelStrategy, outline: Outline, record: TensorRecord, count: int) -> Tensor:
    """Reduce the epoch's value over all processes, of which ``count`` have values of their own."""
    own = record.own_value()
    if own is None:
        assert isinstance(outline.own, Tensor)
        own = torch.full_like(outline.own, _NOTHING[record.reduction]).to(strategy.root_device)
    if record.reduction in ("min", "max"):
        return strategy.reduce(own, record.reduction)
    total = strategy.reduce(own, "sum")
    if record.reduction == "mean":
        return total / strategy.reduce(torch.tensor(record.weight), "sum")
    return total / count if record.reduction == "custom" else total

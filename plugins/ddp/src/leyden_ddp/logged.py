"""What all ranks log together: values that are reduced with their names, and agreement on the names of an epoch.

``self.log(…, sync_dist=True)`` reduces one value after another. Ranks that come with their names in another order, or
with other names, would mix up the values. So each value is reduced together with a number made of its name. If the
numbers of the ranks differ, they tell each other their names. In a step that is an error. At the end of an epoch the
ranks then exchange their records, and reduce the values by name.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from leyden.plugins import Results
from leyden.utilities import rank_zero_warn
from leyden.utilities.exceptions import MisconfigurationException
from leyden_ddp.absence import complete, outlines_of

if TYPE_CHECKING:
    from leyden_ddp.parallel import ParallelStrategy

_RANGE = 65_521  # the sum of that many over 100,000 ranks is exact in float64, that over 250 in float32
_UNREAD = 100  # values of steps that are reduced on a device before the host looks whether their names were the same
_END = "the end of an epoch"


class LoggedValues:
    """Reduces the logged values of one run.

    Args:
        strategy: Whose collectives are used.
    """

    def __init__(self, strategy: ParallelStrategy) -> None:
        self._strategy = strategy
        self._disagree = False  # all ranks know that their names differ, and wait for the end of the epoch
        self._names: dict[str, None] = {}  # those of the step, in their order
        self._differs: Tensor | None = None  # on the device: whether values not looked at had other names
        self._unread = self._sequence = 0  # how many those are, and a number made of all of them in their order
        self._marks: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}  # and what they come to over that many ranks

    def reduce(self, name: str, value: Tensor, op: str, group: Any, in_step: bool) -> Tensor | None:
        """Reduce a value; see :meth:`leyden.strategies.Strategy.reduce_logged`."""
        if self._strategy.is_alone or dist.get_rank(group) < 0:
            return self._strategy.reduce(value, op, group)
        if self._disagree and not in_step:
            return None
        if name in self._names and not self._unread:
            self._names.clear()  # the next step has begun
        return self._reduce(f"{op} {name}", name, value, op, group, in_step)

    def agree(self, results: Results) -> None:
        """Give all ranks the same records; see :meth:`leyden.strategies.Strategy.agree_on_results`."""
        if self._strategy.is_alone or self._strategy.world_size == 1:
            return
        if self._unread:
            self._look(None, in_step=True)
        outlines = outlines_of(results)
        if not self._disagree:
            names = [(each.key, each.kind, each.options.reduce_fx, each.members) for each in outlines]
            self._reduce(repr(names), _END, torch.zeros(()), "sum", None, in_step=False)
        self._names.clear()
        if self._disagree:
            self._disagree = False
            complete(self._strategy, results, outlines)

    def _reduce(self, mark: str, name: str, value: Tensor, op: str, group: Any, in_step: bool) -> Tensor | None:
        device, key = self._strategy.root_device, (mark, dist.get_world_size(group))
        if key not in self._marks:
            number = zlib.crc32(mark.encode()) % _RANGE + 1
            marks = torch.tensor([number, -number], dtype=_widest(device), device=device)
            self._marks[key] = marks, marks * key[1] if op == "sum" else marks
        marks, expected = self._marks[key]
        own = torch.cat([value.detach().reshape(1).to(marks), marks])
        reduced = self._strategy.reduce_as(_END, own, op) if name == _END else self._strategy.reduce(own, op, group)
        self._names[name] = None
        differs = reduced[1:] != expected
        self._differs = differs if self._differs is None else self._differs | differs
        self._unread += 1
        self._sequence = zlib.crc32(mark.encode(), self._sequence)
        can_wait = in_step and group is None and not _is_host(device) and self._unread < _UNREAD
        if not can_wait and self._look(group, in_step):
            return None
        result = reduced[0].to(value.device)
        return result.to(value.dtype) if value.is_floating_point() else result

    def _look(self, group: Any, in_step: bool) -> bool:
        """Whether ranks have come with other names since the last look; all of them look together.

        Args:
            group: The ranks that look.
            in_step: Whether it was in a step.

        Raises:
            MisconfigurationException: They have, and on some of them it was in a step.
        """
        assert self._differs is not None
        differs, said = bool(self._differs.any()), (in_step, self._sequence, list(self._names))
        self._differs, self._unread, self._sequence = None, 0, 0
        if not differs:
            return False
        told = self._strategy.all_gather_object(said, group)
        if all(other == said for other in told):
            return False  # a strategy reduces in a way of its own
        if any(was_in_step for was_in_step, *_ in told):
            ranks = range(len(told)) if group is None else dist.get_process_group_ranks(group)
            lists = "; ".join(f"rank {rank}: {', '.join(names)}" for rank, (*_, names) in zip(ranks, told, strict=True))
            raise MisconfigurationException(
                "The ranks do not log the same names in the same order with sync_dist=True in a step, so their values "
                f"would be mixed up ({lists}). Log the same names on all ranks, or leave out on_step: the values of an "
                "epoch are reduced by name."
            )
        self._disagree = True
        return True


def _is_host(device: torch.device) -> bool:
    """Whether a tensor there can be read without waiting for a device."""
    return device.type == "cpu"


def _widest(device: torch.device) -> torch.dtype:
    """The widest type of numbers on a device: float64, where it has that."""
    try:
        return torch.zeros((), dtype=torch.float64, device=device).dtype
    except (TypeError, RuntimeError):
        return torch.float32


def tell_of_difference(name: str, values: Sequence[float | None]) -> bool:
    """Warn if the ranks have different values of a monitored metric, of which rank 0's decides.

    Args:
        name: The metric.
        values: The value of each rank; None where it was not logged.

    Returns:
        Whether they are different.
    """
    first = values[0]
    if first is None:
        return False
    for rank, value in enumerate(values):
        if value is None or math.isclose(value, first, rel_tol=1e-6) or (math.isnan(value) and math.isnan(first)):
            continue
        rank_zero_warn(
            f"{name!r} is monitored and differs between the ranks: rank 0 has {first:g} and rank {rank} {value:g}. "
            f"Rank 0's decides for all. Log it with self.log({name!r}, …, sync_dist=True), so that it is the value of "
            "all ranks."
        )
        return True
    return False

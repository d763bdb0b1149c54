"""The numbers of one logged name: the last one, and what those of its epoch come to."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import suppress
from numbers import Number
from typing import Any

import torch
from torch import Tensor

from leyden.interfaces.record import Record
from leyden.metrics.options import REDUCTIONS

_EXACT = (torch.float32, torch.float64)
# how values are accumulated; a mean is a sum of weighted ones, a function of the user's needs them all
_ACCUMULATE = {"mean": operator.add, "sum": operator.add, "min": torch.minimum, "max": torch.maximum}


def _dtype() -> torch.dtype:
    """PyTorch's default, but no less than float32: the sum of an epoch overflows float16."""
    dtype = torch.get_default_dtype()
    return dtype if dtype in _EXACT else torch.float32


class TensorRecord(Record):
    """A record of numbers, reduced by "mean", "min", "max", "sum" or the user's own function."""

    _STATE = ("last", "total", "weight", "values", "reduced")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.reduction = REDUCTIONS.get(self.options.reduce_fx, "custom")
        self._accumulate = _ACCUMULATE.get(self.reduction)
        self.last: Tensor | None = None
        self.total: Tensor | None = None
        self.weight = 0
        self.values: list[Tensor] = []
        self.reduced: Tensor | None = None

    def update(self, value: Any, batch_size: Callable[[], int] | int, counts: bool = True) -> None:
        """Take one value."""
        value = self._as_tensor(value)
        if self.options.on_step:
            self.last = self._synchronise(value, self.reduction)
        if self.options.on_epoch and counts:
            self._add(value, batch_size)
        if self.reduces_at_once:
            self.epoch_value()

    def _as_tensor(self, value: Tensor | float) -> Tensor:
        """A detached scalar that no later in-place operation of the user can change."""
        if not isinstance(value, Tensor):
            if not isinstance(value, Number):
                raise ValueError(
                    f"self.log({self.name!r}, …) got {value!r} of type {type(value).__name__}; log a number, a tensor "
                    "of one element, or an object for which a plugin is installed."
                )
            return torch.tensor(value, dtype=_dtype())
        if value.numel() != 1:
            raise ValueError(
                f"self.log({self.name!r}, …) got a tensor of {value.numel()} elements; log a single number, "
                "its mean say."
            )
        if value.dim():
            value = value.squeeze()
        if value.dtype not in _EXACT:
            value = value.to(_dtype())
        return value if self.options.enable_graph else value.detach().clone()

    def _add(self, value: Tensor, batch_size: Callable[[], int] | int) -> None:
        self.final = None
        if self._accumulate is None:
            self.values.append(value)
            return
        if self.reduction == "mean":
            weight = batch_size if isinstance(batch_size, int) else batch_size()
            value = value * weight
            self.weight += weight
        self.total = value if self.total is None else self._accumulate(self.total, value)

    def step_value(self) -> Tensor | None:
        """The last value, or None."""
        return self.last if self.options.on_step else None

    def reduce_epoch(self) -> Tensor | None:
        """The epoch's value so far, or None."""
        own = self.own_value()
        if own is None:
            return None
        if self.values:
            return self._synchronise(own, "mean")
        if self.reduction != "mean":
            return self._synchronise(own, self.reduction)
        weight = self._synchronise(torch.tensor(self.weight), "sum") if self.options.sync_dist else self.weight
        return self._synchronise(own, "sum") / weight

    def _synchronise(self, value: Tensor, reduction: str) -> Tensor:
        options = self.options
        if not options.sync_dist or options.rank_zero_only or self.strategy.world_size == 1:
            return value
        reduced: Tensor = self.strategy.reduce(value.clone(), reduction, options.sync_dist_group)
        return reduced

    def own_value(self) -> Any:
        """What the values of this process come to; a sum where they are averaged. None if there are none."""
        function: Any = self.options.reduce_fx
        if not self.values:
            return self.total
        return function(torch.stack(self.values)) if callable(function) else self.reduced

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume in the middle of an epoch needs.

        A function of the user's is not kept, but what it makes of the values so far is: it is what the epoch comes
        to if the name is not logged again, and if it is, the call brings the function.
        """
        if self.values:
            with suppress(Exception):  # the function may not be meant for half an epoch
                self.reduced = self.own_value()
        return {name: getattr(self, name) for name in self._STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        for name in self._STATE:
            setattr(self, name, state[name])

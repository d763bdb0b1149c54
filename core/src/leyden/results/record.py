"""The values of one logged name: the last one, and what those of its epoch come to.

:class:`Record` is what a plugin derives from that brings a way to log objects of a library; :class:`TensorRecord` keeps
numbers.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from numbers import Number
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leyden.results.options import REDUCTIONS, LogOptions

if TYPE_CHECKING:
    from leyden.trainer import Trainer

_EXACT = (torch.float32, torch.float64)
# how values are accumulated; a mean is a sum of weighted ones, a function of the user's needs them all
_ACCUMULATE = {"mean": operator.add, "sum": operator.add, "min": torch.minimum, "max": torch.maximum}


def _dtype() -> torch.dtype:
    """PyTorch's default, but no less than float32: the sum of an epoch overflows float16."""
    dtype = torch.get_default_dtype()
    return dtype if dtype in _EXACT else torch.float32


class Record(ABC):
    """One logged name in one hook of one dataloader, for one epoch.

    A plugin brings one for the objects of a library, a metric's say, as a component of the kind "record" whose name is
    that of the objects' class, ``"package.module.Class"``; it takes the objects of derived classes too. ``self.log``
    makes the record when a name is logged for the first time in an epoch, and gives it the object in every call.

    Args:
        name: The name as logged.
        asked: The arguments as the user gave them; None for one from a checkpoint, which the next call declares anew.
        options: The same with the hook's defaults filled in.
        dataloader_idx: Set where there are several evaluation loaders.
        trainer: Whose run it is.

    Attributes:
        kind: The name of its component; None for the core's.
        strategy: Reduces over processes where ``sync_dist`` asks for it.
        name: The name with the dataloader's suffix, where it has one; so are the two others.
        step_name: What a step's value is called.
        epoch_name: What the epoch's value is called.
        reduces_at_once: Whether the value is reduced when it is logged, which is in a hook of all processes, after
            which any one of them may ask for it.
        final: The epoch's value so far, reduced over processes once, however often it is asked for.
    """

    kind: str | None = None

    def __init__(
        self, name: str, asked: LogOptions | None, options: LogOptions, dataloader_idx: int | None, trainer: Trainer
    ) -> None:
        self.asked, self.options = asked, options
        self.dataloader_idx = dataloader_idx
        suffix = "" if dataloader_idx is None or not options.add_dataloader_idx else f"/dataloader_idx_{dataloader_idx}"
        forked = bool(options.on_step and options.on_epoch)
        self.name = name + suffix
        self.step_name = (f"{name}_step" if forked else name) + suffix
        self.epoch_name = (f"{name}_epoch" if forked else name) + suffix
        self.trainer, self.strategy = trainer, trainer.strategy
        self.reduces_at_once = False
        self.final: Any = None

    def declare(self, value: Any, records: Mapping[tuple[str, str, int | None], Record]) -> None:
        """Called by the call that declares the name, before :meth:`update`; raise to refuse the value.

        Args:
            value: The value.
            records: The other records of the loop, by hook, name and dataloader.
        """

    @abstractmethod
    def update(self, value: Any, batch_size: Callable[[], int] | int, counts: bool = True) -> None:
        """Take one value; ``batch_size`` is called only where a weighted mean needs it.

        Args:
            value: The value.
            batch_size: Its weight in a mean.
            counts: Whether it is a part of the epoch's value too.
        """

    @abstractmethod
    def step_value(self) -> Any:
        """What this name is at this step, as a tensor on its device, or None."""

    def epoch_value(self) -> Any:
        """What this name is over the epoch, or None."""
        if self.final is None:
            self.final = self.reduce_epoch()
        return self.final

    @abstractmethod
    def reduce_epoch(self) -> Any:
        """The epoch's value over all processes, as a tensor on its device, or None; all processes ask in one order."""

    def forget(self) -> None:
        """The epoch is over: clear what outlives the record."""

    def outline(self) -> dict[str, Any] | str | None:
        """What a process that has not logged the name, for want of a batch, must know to take part in the reduction.

        Returns:
            Plain data for :meth:`take_part`. Where no process can do without values, why, as a clause. None where
            nothing is reduced over processes.
        """
        return None

    def take_part(self, outline: dict[str, Any]) -> None:
        """Take part in :meth:`reduce_epoch` without values of one's own; ``outline`` is another process's."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any] | None:
        """What an exact resume in the middle of an epoch needs, as plain data; None where the record can't be kept."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""


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

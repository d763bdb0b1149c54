"""The records of a loop: the numbers of each logged name, and what of them is to be seen now."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from math import inf
from numbers import Number
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from leyden.interfaces.record import Record
from leyden.metrics.options import REDUCTIONS, LogOptions, refused, require_same, resolve
from leyden.plugin_system.hooks import LOG_RULES
from leyden.utilities.exceptions import UnknownComponentError

if TYPE_CHECKING:
    from leyden.trainer import Trainer

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
            self.last = self._synchronise(value, self.reduction, in_step=True)
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
                f"self.log({self.name!r}, …) got a tensor of {value.numel()} elements; log one number, its mean say."
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
        if self.reduction == "mean":
            total = self._synchronise(own, "sum")
            weight = None if total is None else self._synchronise(torch.tensor(self.weight), "sum")
            return None if total is None or weight is None else total / weight
        return self._synchronise(own, "mean" if self.reduction == "custom" else self.reduction)

    def _synchronise(self, value: Tensor, reduction: str, in_step: bool = False) -> Tensor | None:
        options = self.options
        if not options.sync_dist or options.rank_zero_only or self.strategy.world_size == 1:
            return value
        name = f"{self.name} ({self.reduction})"
        return self.strategy.reduce_logged(name, value.clone(), reduction, options.sync_dist_group, in_step)

    def own_value(self) -> Any:
        """What the values of this process come to; a sum where they are averaged. None if there are none."""
        function: Any = self.options.reduce_fx
        if not self.values:
            return self.total
        return function(torch.stack(self.values)) if callable(function) else self.reduced

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume in the middle of an epoch needs.

        A function of the user's is not kept, but what it makes of the values so far is. This is the epoch's value if
        the name is not logged again. If it is logged again, the call brings the function.
        """
        if self.values:
            with suppress(Exception):  # the function may not be meant for half an epoch
                self.reduced = self.own_value()
        return {name: getattr(self, name) for name in self._STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        vars(self).update({name: state[name] for name in self._STATE})


class Moment(Enum):
    """Whose values are to be seen now."""

    STEP = "those of the step that runs, or ran last"
    STEP_KEPT = "those of the step, which were kept before another loop began; that loop's values are newer"
    EPOCH = "those of the epoch, which is over"


class Shown(NamedTuple):
    """Values by name, for each of those who ask."""

    callbacks: dict[str, Any]
    loggers: dict[str, Any]
    bars: dict[str, Any]


class Results:
    """The records of one loop, from the start of its epoch to the end.

    Args:
        trainer: Whose loop it is.
        training: Whether the loop trains. Callbacks see the values of its steps then, else those of the epoch alone.

    Attributes:
        records: By hook, name and dataloader.
        moment: Whose values are to be seen.
        dataloader_idx: The running dataloader, where there are several; only its records are seen.
        batches: How many batches each process has of each loader; empty where they have not told each other.
    """

    def __init__(self, trainer: Trainer, training: bool = False) -> None:
        self.trainer, self.training = trainer, training
        self.records: dict[tuple[str, str, int | None], Record] = {}
        self.batches: list[tuple[int | float, ...]] = []
        self.reset()

    def declare(self, hook: str, name: str, value: Any, asked: LogOptions) -> Record:
        """The record for a name that has none yet, or whose arguments are not those of its record.

        Args:
            hook: The hook that logs; "" outside of a loop.
            name: The name as logged.
            value: A number, a tensor, or an object that a plugin logs.
            asked: The arguments of the call.

        Raises:
            MisconfigurationException: The call has no meaning in this hook, or differs from an earlier one.
        """
        key = (hook, name, self.dataloader_idx)
        known = self.records.get(key)
        if known is not None and known.asked is not None:
            require_same(name, hook, known.asked, asked)
            known.options = known.options._replace(reduce_fx=asked.reduce_fx)
            return known
        options = resolve(name, hook, asked)
        self._refuse_uneven_steps(name, options)
        kind = self._kind_of(name, value)
        record = self.new_record(kind, name, asked, options)
        is_called_once = not LOG_RULES[hook].step_allowed
        record.reduces_at_once = options.sync_dist and is_called_once and self.trainer.world_size > 1
        record.declare(value, self.records)
        if known is not None and known.kind == kind and (state := known.state_dict()) is not None:  # of a checkpoint
            record.load_state_dict(state)
        self.records[key] = record
        return record

    def _refuse_uneven_steps(self, name: str, options: LogOptions) -> None:
        """Refuse a reduction in every batch where some processes have fewer batches; the others would wait."""
        if not (options.on_step and options.sync_dist and options.sync_dist_group is None and self.batches):
            return
        counts = self.batches[self.dataloader_idx or 0]
        if len(set(counts)) > 1 and inf not in counts and not options.rank_zero_only:
            raise refused(
                name,
                "with on_step=True and sync_dist=True needs all processes in every batch, but they have "
                f"{', '.join(map(str, counts))} batches of this loader; leave out on_step, or sync_dist.",
            )

    def _kind_of(self, name: str, value: Any) -> str | None:
        """The name of the component that keeps a value; None where the core does, or says that it can't."""
        try:
            is_number = isinstance(value, (Tensor, Number))
            return None if is_number else self.trainer.plugin_manager.component_for("record", type(value))
        except UnknownComponentError as error:
            raise refused(name, f"got a {type(value).__name__}, which a plugin logs. {error}") from error

    def new_record(self, kind: str | None, name: str, asked: LogOptions | None, options: LogOptions) -> Record:
        """A record of the running dataloader, without values.

        Args:
            kind: The name of the component that brings it; None for the core's, of numbers.
            name: See :class:`leyden.interfaces.record.Record`, for the others too.
            asked: The arguments of the call.
            options: The arguments with defaults filled in.

        Raises:
            UnknownComponentError: No plugin brings a component of that name.
        """
        cls = TensorRecord if kind is None else self.trainer.plugin_manager.component("record", kind).load()
        record: Record = cls(name, asked, options, self.dataloader_idx, self.trainer)
        record.kind = kind
        return record

    def metrics(self) -> Shown:
        """What callbacks, loggers and progress bars are to see now."""
        shown = Shown({}, {}, {})
        on_step = self.moment is not Moment.EPOCH
        for record in self.records.values():
            if record.dataloader_idx != self.dataloader_idx:
                continue
            value = record.step_value() if on_step else record.epoch_value()
            if not isinstance(value, Tensor):
                continue
            name = record.step_name if on_step else record.epoch_name
            if record.options.logger:
                shown.loggers[name] = value
            if self.training or not on_step:
                shown.callbacks[record.name] = shown.callbacks[name] = value
            if record.options.prog_bar:
                shown.bars[name] = value
        return shown

    def has(self, name: str) -> bool:
        """Whether this loop has logged a metric of this name, plain or suffixed."""
        return any(name in (r.name, r.step_name, r.epoch_name) for r in self.records.values())

    def reset(self) -> None:
        """Forget all values; objects that were logged are reset too."""
        for record in self.records.values():
            record.forget()
        self.records.clear()
        self.moment = Moment.EPOCH
        self.dataloader_idx: int | None = None

    def state_dict(self) -> list[dict[str, Any]]:
        """The open accumulations as plain data, for an exact resume in the middle of an epoch."""
        states = []
        for key, record in self.records.items():
            if (state := record.state_dict()) is None:
                continue
            reduction = REDUCTIONS.get(record.options.reduce_fx)
            options = record.options._replace(reduce_fx=reduction or "", sync_dist_group=None)
            states.append({"key": list(key), "kind": record.kind, "options": options._asdict(), **state})
        return states

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Take back what :meth:`state_dict` returned."""
        for state in states:
            kind, key = state["kind"], tuple(state["key"])
            if kind is not None and not self.trainer.plugin_manager.named("record", kind):
                continue  # its plugin is not there, which was said
            self.records[key] = record = self.new_record(kind, key[1], None, LogOptions(**state["options"]))
            record.load_state_dict(state)

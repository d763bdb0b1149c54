"""The first ``self.log`` call of a name in an epoch: whether it has a meaning here, and the record that it gets."""

from __future__ import annotations

from functools import partial
from math import inf
from numbers import Number
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden.interfaces.record import Record
from leyden.metrics.options import REDUCTIONS, LogOptions
from leyden.metrics.results import Results
from leyden.plugin_system.hooks import LOG_RULES
from leyden.utilities.exceptions import MisconfigurationException, UnknownComponentError

if TYPE_CHECKING:
    from leyden.trainer import Trainer


def declare(trainer: Trainer, results: Results, hook: str, name: str, value: Any, asked: LogOptions) -> Record:
    """The record for a name whose arguments are not those of the record that there is, if there is one.

    Args:
        trainer: Whose run it is.
        results: Where the record is, or will be.
        hook: The hook that logs.
        name: The name as logged.
        value: A number, a tensor, or an object that a plugin logs.
        asked: The arguments of the call.

    Raises:
        MisconfigurationException: The call has no meaning in this hook, or differs from an earlier one.
    """
    key = (hook, name, results.dataloader_idx)
    known = results.records.get(key)
    if known is not None and known.asked is not None:
        _require_same(name, hook, known.asked, asked)
        known.options = known.options._replace(reduce_fx=asked.reduce_fx)
        return known
    options = _resolve(name, hook, asked)
    _refuse_uneven_steps(results, name, options)
    kind = _kind_of(trainer, name, value)
    record = results.new_record(kind, name, asked, options)
    record.reduces_at_once = options.sync_dist and not LOG_RULES[hook].step_allowed and trainer.world_size > 1
    record.declare(value, results.records)
    if known is not None and known.kind == kind and (state := known.state_dict()) is not None:  # from a checkpoint
        record.load_state_dict(state)
    results.records[key] = record
    return record


def _kind_of(trainer: Trainer, name: str, value: Any) -> str | None:
    """The name of the component that keeps a value; None where the core does, or says that it can't."""
    if isinstance(value, (Tensor, Number)):
        return None
    try:
        return trainer.plugin_manager.component_for("record", type(value))
    except UnknownComponentError as error:
        raise MisconfigurationException(
            f"self.log({name!r}, …) got a {type(value).__name__}, which a plugin logs. {error}"
        ) from error


def _require_same(name: str, hook: str, before: LogOptions, now: LogOptions) -> None:
    """Refuse other arguments than before, but for a function that is written in the call."""
    if _identities(before) != _identities(now):
        raise MisconfigurationException(
            f"self.log({name!r}, …) was called twice in {hook} with different arguments; "
            f"before: {_changed(before, now)}, now: {_changed(now, before)}."
        )


def _identities(options: LogOptions) -> LogOptions:
    """The options with what tells functions apart: one that is written in the call is a new object in every call."""
    function = options.reduce_fx
    if isinstance(function, partial):
        return options._replace(reduce_fx=(function.func, function.args, function.keywords))  # type: ignore[arg-type]
    return options._replace(reduce_fx=getattr(function, "__code__", function))


def _changed(options: LogOptions, other: LogOptions) -> str:
    pairs = zip(options._fields, options, other, strict=True)
    return ", ".join(f"{field}={value!r}" for field, value, theirs in pairs if value != theirs)


def _resolve(name: str, hook: str, asked: LogOptions) -> LogOptions:
    """Fill in the hook's defaults and refuse what it does not allow."""
    if "/dataloader_idx_" in name:
        raise MisconfigurationException(
            f"self.log({name!r}, …): the part /dataloader_idx_ is added by the Trainer; leave it out."
        )
    rule = LOG_RULES.get(hook)
    if rule is None:
        raise MisconfigurationException(
            f"self.log({name!r}, …) can't be called in {hook}; it has a meaning in: {', '.join(LOG_RULES)}."
        )
    on_step = rule.on_step if asked.on_step is None else asked.on_step
    on_epoch = rule.on_epoch if asked.on_epoch is None else asked.on_epoch
    if on_step and not rule.step_allowed:
        raise MisconfigurationException(
            f"self.log({name!r}, on_step=True) has no meaning in {hook}, which runs once per epoch."
        )
    if not on_step and not on_epoch:
        raise MisconfigurationException(f"self.log({name!r}, …) with neither on_step nor on_epoch would be lost.")
    if not callable(asked.reduce_fx) and asked.reduce_fx not in REDUCTIONS:
        raise MisconfigurationException(
            f"self.log({name!r}, reduce_fx={asked.reduce_fx!r}): write mean, min, max, sum or a function."
        )
    logger = True if asked.logger is None else asked.logger
    return asked._replace(on_step=on_step, on_epoch=on_epoch, logger=logger)


def _refuse_uneven_steps(results: Results, name: str, options: LogOptions) -> None:
    """Refuse a reduction in every batch where some processes have fewer batches; the others would wait."""
    if not (options.on_step and options.sync_dist and options.sync_dist_group is None and results.batches):
        return
    counts = results.batches[results.dataloader_idx or 0]
    if len(set(counts)) > 1 and inf not in counts and not options.rank_zero_only:
        raise MisconfigurationException(
            f"self.log({name!r}, on_step=True, sync_dist=True) needs all processes in every batch, but they have "
            f"{', '.join(map(str, counts))} batches of this loader; leave out on_step, or sync_dist."
        )

"""The arguments of ``self.log``, and whether they have a meaning where it is called."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from leyden.plugin_system.hooks import LOG_RULES
from leyden.utilities import MisconfigurationException


class LogOptions(NamedTuple):
    """The arguments of one ``self.log`` call that must stay the same for a name in a hook."""

    prog_bar: bool = False
    logger: bool | None = None
    on_step: bool | None = None
    on_epoch: bool | None = None
    reduce_fx: str | Callable[..., Any] = "mean"
    enable_graph: bool = False
    sync_dist: bool = False
    sync_dist_group: Any = None
    add_dataloader_idx: bool = True
    metric_attribute: str | None = None
    rank_zero_only: bool = False


REDUCTIONS: dict[Any, str] = {
    "mean": "mean", "avg": "mean", "min": "min", "max": "max", "sum": "sum",
    torch.mean: "mean", torch.min: "min", torch.max: "max", torch.sum: "sum", min: "min", max: "max", sum: "sum",
}  # fmt: skip


def refused(name: str, why: str) -> MisconfigurationException:
    """The error of a call that has no meaning.

    Args:
        name: The name as logged.
        why: The rest of the sentence.
    """
    return MisconfigurationException(f"self.log({name!r}, …) {why}")


def resolve(name: str, hook: str, asked: LogOptions) -> LogOptions:
    """The arguments with the hook's defaults filled in.

    Args:
        name: The name as logged.
        hook: The hook that logs; "" outside of a loop.
        asked: The arguments of the call.

    Raises:
        MisconfigurationException: The hook does not allow them.
    """
    if "/dataloader_idx_" in name:
        raise refused(name, "has /dataloader_idx_ in its name, which the Trainer adds; leave it out.")
    rule = LOG_RULES.get(hook)
    if rule is None:
        where = f"in {hook}" if hook else "outside of a loop"
        raise refused(name, f"can't be called {where}; it has a meaning in: {', '.join(LOG_RULES)}.")
    on_step = rule.on_step if asked.on_step is None else asked.on_step
    on_epoch = rule.on_epoch if asked.on_epoch is None else asked.on_epoch
    if on_step and not rule.step_allowed:
        raise refused(name, f"with on_step=True has no meaning in {hook}, which runs once per epoch; leave it out.")
    if not on_step and not on_epoch:
        raise refused(name, "with neither on_step nor on_epoch would be lost; set one of them.")
    if not callable(asked.reduce_fx) and asked.reduce_fx not in REDUCTIONS:
        raise refused(name, f"got reduce_fx={asked.reduce_fx!r}; write mean, min, max, sum or a function.")
    return asked._replace(on_step=on_step, on_epoch=on_epoch, logger=asked.logger is None or asked.logger)


def require_same(name: str, hook: str, before: LogOptions, now: LogOptions) -> None:
    """Refuse other arguments than before; a function that is written in the call stays the same."""
    if _comparable(before) != _comparable(now):
        changed = [field for field, old, new in zip(now._fields, before, now, strict=True) if old != new]
        old, new = (", ".join(f"{field}={getattr(asked, field)!r}" for field in changed) for asked in (before, now))
        raise refused(name, f"was called twice in {hook} with different arguments; before: {old}, now: {new}.")


def _comparable(options: LogOptions) -> LogOptions:
    """The options with the code of a function in its place: one written in the call is a new object every time."""
    function: Any = options.reduce_fx
    if isinstance(function, partial):
        function = (function.func, function.args, function.keywords)
    return options._replace(reduce_fx=getattr(function, "__code__", function))

"""``trainer.describe_hooks()``: tells what a run calls at each hook, in what order and how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

from leyden.plugins import RUN_HOOKS, HookTable, Implementation, facts

if TYPE_CHECKING:
    from leyden import Trainer


def describe_hooks(trainer: Trainer) -> str:
    """Return a line for each implementation of each hook, in calling order.

    If the profiler has ``recorded_durations``, a line also has the mean time of a call in µs.
    """
    table = trainer.hooks
    if trainer.state.fn is None:
        return "No run yet: hooks are resolved when fit, validate, test or predict begins."
    durations: Mapping[str, Sequence[float]] = getattr(trainer.profiler, "recorded_durations", {})
    lines = []
    for hook in RUN_HOOKS:
        costs = _costs(table, hook, durations)
        for place, (one, cost) in enumerate(zip(table.by_hook[hook], costs, strict=True), 1):
            label = f"{place}. {one.name}{order_mark(one)}"
            module = type(one.target).__module__ if one.info is None else getattr(one.target, "__name__", "")
            lines.append((hook if place == 1 else "", label, module, facts(hook).frequency.value, cost))
    widths = [max((len(line[i]) for line in lines), default=0) for i in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, [*widths, 0], strict=True)).rstrip() for line in lines
    )


def order_mark(one: Implementation | pluggy.HookImpl) -> str:
    """Return an implementation's order options in parentheses, such as `` (tryfirst)``; "" if it has none."""
    given = one.opts.get
    marks = {
        "wrapper": given("wrapper") or given("hookwrapper"),
        "tryfirst": given("tryfirst"),
        "trylast": given("trylast"),
    }
    return f" ({', '.join(mark for mark, on in marks.items() if on)})" if any(marks.values()) else ""


def _costs(table: HookTable, hook: str, durations: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the mean time of a call of each implementation of a hook, in calling order; "" if it was not measured.

    A wrapper is measured together with the implementations inside it, so their time is subtracted.
    """
    costs: list[str] = []
    inside = 0.0
    for one in reversed(table.by_hook[hook]):
        calls = durations.get(table.action(one), ())
        seconds = sum(calls)
        own = seconds - inside if one.wraps else seconds
        inside = seconds if one.wraps else inside + seconds
        costs.append(f"{own / len(calls) * 1e6:10.1f} µs a call" if calls else "")
    return costs[::-1]

"""``trainer.describe_hooks()``: what a run calls at each hook, in order, and how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

from leyden.plugin_system.hooks import RUN_HOOKS, facts
from leyden.plugin_system.table import HookTable, Implementation

if TYPE_CHECKING:
    from leyden.trainer import Trainer


def describe_hooks(trainer: Trainer) -> str:
    """One line for each implementation of each hook; with a profiler that keeps durations, what a call costs."""
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
    """How an implementation changes the order of its hook, in parentheses; "" where it does not."""
    given = one.opts.get
    marks = {
        "wrapper": given("wrapper") or given("hookwrapper"),
        "tryfirst": given("tryfirst"),
        "trylast": given("trylast"),
    }
    return f" ({', '.join(mark for mark, on in marks.items() if on)})" if any(marks.values()) else ""


def _costs(table: HookTable, hook: str, durations: Mapping[str, Sequence[float]]) -> list[str]:
    """What a call of each implementation of a hook costs, in calling order; "" for one that was not measured.

    A wrapper is measured together with what it wraps, which is taken off again.
    """
    costs: list[str] = []
    inside = 0.0
    for one in reversed(table.by_hook[hook]):
        measured = durations.get(table.action(one), ())
        seconds = sum(measured)
        own = seconds - inside if one.wraps else seconds
        inside = seconds if one.wraps else inside + seconds
        costs.append(f"{own / len(measured) * 1e6:10.1f} µs a call" if measured else "")
    return costs[::-1]

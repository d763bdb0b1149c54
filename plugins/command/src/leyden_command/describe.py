"""``trainer.describe_hooks()``: what a run calls at each hook, in order, and how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

from leyden.plugin_system.hooks import BEHAVIOUR, OBSERVATION
from leyden.plugin_system.manager import is_wrapper
from leyden.plugin_system.table import HookTable

if TYPE_CHECKING:
    from leyden.trainer import Trainer

_PER_STEP = ("_batch", "zero_grad", "backward", "optimizer_step")
_PER_EPOCH = ("on_validation", "on_sanity", "leyden_wrap_batches")


def _frequency(hook: str) -> str:
    """How often a hook is called, in words."""
    if "_batch_" in hook or hook.endswith(_PER_STEP):
        return "every batch"
    return "every epoch" if "_epoch_" in hook or hook.startswith(_PER_EPOCH) else "once"


def describe_hooks(trainer: Trainer) -> str:
    """One line for each implementation of each hook; with a profiler that keeps durations, what a call costs."""
    table = getattr(trainer, "hooks", None)
    if table is None:
        return "No run yet: hooks are resolved when fit, validate, test or predict begins."
    durations: Mapping[str, Sequence[float]] = getattr(trainer.profiler, "recorded_durations", {})
    lines = []
    for hook in (*OBSERVATION, *BEHAVIOUR):
        costs = _costs(table, hook, durations)
        for place, (impl, cost) in enumerate(zip(table.implementations(hook), costs, strict=True), 1):
            target = getattr(impl.function, "target", None)
            name = type(target).__name__ if target is not None else impl.plugin_name
            label = f"{place}. {name}{order_mark(impl)}"
            module = type(target).__module__ if target is not None else getattr(impl.plugin, "__name__", "")
            lines.append((hook if place == 1 else "", label, module, _frequency(hook), cost))
    widths = [max((len(line[i]) for line in lines), default=0) for i in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, [*widths, 0], strict=True)).rstrip() for line in lines
    )


def order_mark(impl: pluggy.HookImpl) -> str:
    """How an implementation changes the order of its hook, in parentheses; "" where it does not."""
    marks = {"wrapper": is_wrapper(impl), "tryfirst": impl.tryfirst, "trylast": impl.trylast}
    return f" ({', '.join(mark for mark, given in marks.items() if given)})" if any(marks.values()) else ""


def _costs(table: HookTable, hook: str, durations: Mapping[str, Sequence[float]]) -> list[str]:
    """What a call of each implementation of a hook costs, in calling order; "" for one that was not measured.

    A wrapper is measured together with what it wraps, which is taken off again: what remains is its own and that of
    the slower way in which a hook with wrappers is called.
    """
    costs: list[str] = []
    inside = 0.0
    for impl in reversed(table.implementations(hook)):
        measured = durations.get(table.action(impl, hook), ())
        seconds = sum(measured)
        own = seconds - inside if is_wrapper(impl) else seconds
        inside = seconds if is_wrapper(impl) else inside + seconds
        costs.append(f"{own / len(measured) * 1e6:10.1f} µs a call" if measured else "")
    return costs[::-1]

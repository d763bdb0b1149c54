"""``trainer.describe_hooks()``: tells what a run calls at each hook, in what order and how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

from leyden.plugin_system.hooks import BEHAVIOUR, OBSERVATION
from leyden.plugin_system.manager import is_wrapper
from leyden.plugin_system.table import HookTable

if TYPE_CHECKING:
    from leyden.trainer import Trainer

_PER_STEP = ("zero_grad", "backward", "optimizer_step")


def _frequency(hook: str) -> str:
    """Return how often a hook is called, in words."""
    if "_batch_" in hook or hook in BEHAVIOUR or hook.endswith(_PER_STEP):
        return "every batch"
    return "every epoch" if "_epoch_" in hook or hook.startswith(("on_validation", "on_sanity")) else "once"


def describe_hooks(trainer: Trainer) -> str:
    """Return a line for each implementation of each hook, in calling order.

    If the profiler has ``recorded_durations``, a line also has the mean time of a call in µs.
    """
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
    """Return an implementation's order options in parentheses, such as `` (tryfirst)``; "" if it has none."""
    marks = {"wrapper": is_wrapper(impl), "tryfirst": impl.tryfirst, "trylast": impl.trylast}
    return f" ({', '.join(mark for mark, given in marks.items() if given)})" if any(marks.values()) else ""


def _costs(table: HookTable, hook: str, durations: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the mean time of a call of each implementation of a hook, in calling order; "" if it was not measured.

    A wrapper is measured together with the implementations inside it, so their time is subtracted. What remains is
    the wrapper's own time and the extra time that pluggy needs for a hook with wrappers.
    """
    costs: list[str] = []
    inside = 0.0
    for impl in reversed(table.implementations(hook)):
        calls = durations.get(table.action(impl, hook), ())
        seconds = sum(calls)
        own = seconds - inside if is_wrapper(impl) else seconds
        inside = seconds if is_wrapper(impl) else inside + seconds
        costs.append(f"{own / len(calls) * 1e6:10.1f} µs a call" if calls else "")
    return costs[::-1]

"""``trainer.describe_hooks()``: what a run calls at each hook, in order, and how often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.hooktable import BEHAVIOUR, OBSERVATION, participant_kind, participant_label

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer

_PER_STEP = ("zero_grad", "backward", "optimizer_step")


def frequency(hook: str) -> str:
    """How often a hook is called, in words."""
    if "_batch_" in hook or hook in BEHAVIOUR or hook.endswith(_PER_STEP):
        return "every batch"
    return "every epoch" if "_epoch_" in hook or hook.startswith(("on_validation", "on_sanity")) else "once"


def describe(trainer: Trainer) -> str:
    """One line for each implementation of each hook; with a profiler that keeps durations, what a call costs."""
    table = getattr(trainer, "hooks", None)
    if table is None:
        return "No run yet: hooks are resolved when fit, validate, test or predict begins."
    durations: dict[str, Any] = getattr(trainer.profiler, "recorded_durations", {})
    lines = []
    for hook in (*OBSERVATION, *BEHAVIOUR):
        for place, impl in enumerate(table.implementations(hook), 1):
            target = getattr(impl.function, "target", None)
            label = participant_label(target, impl.plugin_name)
            action = f"[{participant_kind(target)}]{label}.{hook}"
            seconds = durations.get(action)
            cost = f"{sum(seconds) / len(seconds) * 1e6:10.1f} µs a call" if seconds else ""
            module = type(target).__module__ if target is not None else getattr(impl.plugin, "__name__", "")
            lines.append((hook if place == 1 else "", f"{place}. {label}", module, frequency(hook), cost))
    widths = [max((len(line[i]) for line in lines), default=0) for i in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, [*widths, 0], strict=True)).rstrip() for line in lines
    )

"""Functions for callbacks that monitor a metric: decisions that are the same on all ranks, the text of an error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from leyden.trainer import Trainer


def any_rank(trainer: Trainer, decision: bool) -> bool:
    """Whether ``decision`` is True on at least one rank; all ranks must call it."""
    return _reduced(trainer, decision, "max")


def all_ranks(trainer: Trainer, decision: bool) -> bool:
    """Whether ``decision`` is True on every rank; all ranks must call it."""
    return _reduced(trainer, decision, "min")


def _reduced(trainer: Trainer, decision: bool, op: str) -> bool:
    if trainer.world_size == 1:
        return decision
    vote = torch.tensor(float(decision), device=trainer.strategy.root_device)
    return bool(trainer.strategy.reduce(vote, op) > 0)


def missing_metric(owner: str, monitor: str, logged: Iterable[str]) -> str:
    """Return the error text for a monitored metric that was not logged.

    Args:
        owner: The callback's name.
        monitor: The metric that it monitors.
        logged: The names of the metrics that were logged.
    """
    names = sorted(logged)
    near = difflib.get_close_matches(monitor, names, n=1)
    listed = ", ".join(map(repr, names)) or "nothing"
    advice = f"did you mean {near[0]!r}?" if near else f"log it with self.log({monitor!r}, value) or monitor another."
    return f"{owner}(monitor={monitor!r}) monitors a metric that was never logged (logged: {listed}); {advice}"

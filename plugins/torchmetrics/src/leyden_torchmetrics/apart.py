"""Metrics of a run of one process exchange nothing, though the process group of an earlier run may still be there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from leyden.plugins import StashKey
from leyden_torchmetrics.states import metrics_of

if TYPE_CHECKING:
    from leyden import Trainer

_ASK = "distributed_available_fn"  # the attribute of a metric that says whether there are processes to exchange with
_BEFORE = StashKey[list[tuple[Any, Callable[[], bool]]]]()


def _never() -> bool:
    return False


def keep_apart(trainer: Trainer) -> None:
    """Have the module's metrics exchange nothing in a run of one process, until :func:`give_back`."""
    if trainer.world_size == 1:
        before = trainer.run.stash.setdefault(_BEFORE, [])
        before += _set_apart(metric for _, metric in metrics_of(trainer.lightning_module))


def give_back(trainer: Trainer) -> None:
    """Let the metrics exchange again what they have."""
    _put_back(trainer.run.stash.pop(_BEFORE, []))


@contextmanager
def apart(metric: Any) -> Generator[None, None, None]:
    """A block in which a metric exchanges nothing."""
    before = _set_apart([metric])
    try:
        yield
    finally:
        _put_back(before)


def _set_apart(metrics: Iterable[Any]) -> list[tuple[Any, Callable[[], bool]]]:
    distributed = sys.modules["torch.distributed"]
    if not distributed.is_available() or not distributed.is_initialized():
        return []
    found = [(metric, getattr(metric, _ASK)) for metric in metrics if getattr(metric, _ASK) is not _never]
    for metric, _ in found:
        setattr(metric, _ASK, _never)
    return found


def _put_back(before: list[tuple[Any, Callable[[], bool]]]) -> None:
    for metric, ask in before:
        setattr(metric, _ASK, ask)

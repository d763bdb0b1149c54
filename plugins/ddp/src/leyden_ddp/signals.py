"""Signals that ask a run to end: each is noted at once, and acted on at the next step boundary, by all processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from leyden.utilities.exceptions import SIGTERMException
from leyden.utilities.rank_zero import rank_zero_info

if TYPE_CHECKING:
    from leyden.trainer import Trainer

SIGTERM, REQUEUE = "SIGTERM", "requeue"  # what Trainer.asked_to_end says of each
_handlers: dict[Trainer, ExitStack] = {}  # of the runs under way; one may be within another's hook


def watch(trainer: Trainer) -> None:
    """From now on SIGTERM, and the cluster's signal for a requeue, set ``trainer.asked_to_end``.

    Signals reach the main thread only, so a Trainer in another thread watches nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    handlers = _handlers[trainer] = ExitStack()
    handlers.enter_context(_noting(trainer, signal.SIGTERM, SIGTERM))
    environment = trainer.strategy.environment
    if environment is not None and environment.requeue_signal is not None:
        handlers.enter_context(_noting(trainer, environment.requeue_signal, REQUEUE))


def give_back(trainer: Trainer) -> None:
    """The run is over: put back the handlers that were there before it."""
    if (handlers := _handlers.pop(trainer, None)) is not None:
        handlers.close()


def end_if_asked_too_late(trainer: Trainer) -> None:
    """End a run that went well if it got SIGTERM when there was no step boundary to come, as in an evaluation.

    Raises:
        SIGTERMException: It did.
    """
    if trainer.asked_to_end == SIGTERM:
        raise SIGTERMException


@contextmanager
def _noting(trainer: Trainer, number: signal.Signals, reason: str) -> Generator[None, None, None]:
    """A block in which a signal is noted; the process's own handler is called too."""
    previous = signal.getsignal(number)

    def note(received: int, frame: Any) -> None:
        rank_zero_info(f"{number.name} received: the run ends at the next step boundary.")
        trainer.received_sigterm = trainer.received_sigterm or reason == SIGTERM
        trainer.asked_to_end = reason
        if callable(previous):
            previous(received, frame)

    signal.signal(number, note)
    try:
        yield
    finally:
        signal.signal(number, previous if previous is not None else signal.SIG_DFL)

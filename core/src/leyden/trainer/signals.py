"""Being asked to end: a signal is noted at once and acted on at the next step boundary, by all processes together."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from leyden.loops.ending import REQUEUE, SIGTERM
from leyden.utilities.rank_zero import rank_zero_info

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer


@contextmanager
def watch_signals(trainer: Trainer) -> Generator[None, None, None]:
    """A block in which SIGTERM, and the cluster's signal for a requeue, set ``trainer.asked_to_end``.

    Signals reach the main thread only, so a Trainer in another thread watches nothing.
    """
    trainer.received_sigterm, trainer.asked_to_end = False, ""
    with ExitStack() as handlers:
        if threading.current_thread() is threading.main_thread():
            handlers.enter_context(_noting(trainer, signal.SIGTERM, SIGTERM))
            environment = trainer.strategy.environment
            if environment is not None and environment.requeue_signal is not None:
                handlers.enter_context(_noting(trainer, environment.requeue_signal, REQUEUE))
        yield


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

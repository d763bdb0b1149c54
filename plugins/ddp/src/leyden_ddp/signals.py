"""Signals that ask a run to end: the handler only notes the signal, and all processes end at the same step boundary."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from leyden.plugins import StashKey
from leyden.utilities.exceptions import SIGTERMException
from leyden.utilities.rank_zero import rank_zero_info

if TYPE_CHECKING:
    from leyden import Trainer

SIGTERM, REQUEUE = "SIGTERM", "requeue"  # the values of Trainer.asked_to_end
HANDLERS = StashKey[ExitStack]()  # of a run; a hook of one may start one of another Trainer


def watch(trainer: Trainer) -> None:
    """Let SIGTERM, and the cluster's signal for a requeue, set ``trainer.asked_to_end`` from now on.

    Python handles signals in the main thread only, so nothing is watched for a Trainer in another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    handlers = trainer.run.stash[HANDLERS] = ExitStack()
    handlers.enter_context(_noting(trainer, signal.SIGTERM, SIGTERM))
    environment = trainer.strategy.environment
    if environment is not None and environment.requeue_signal is not None:
        handlers.enter_context(_noting(trainer, environment.requeue_signal, REQUEUE))


def give_back(trainer: Trainer) -> None:
    """Restore the handlers that were there before the run."""
    trainer.run.stash.pop(HANDLERS, ExitStack()).close()


@contextmanager
def ending(trainer: Trainer, error: BaseException) -> Generator[None, None, None]:
    """The block in which others are told of the error that ends a run.

    A run that was asked to end takes no harm when it is asked again: whoever sends SIGTERM to all processes of a job
    does not reach them all at once, and a launcher may send it on. Another run can be ended by a signal at once.
    """
    asked = isinstance(error, SIGTERMException)
    if not asked:
        give_back(trainer)
    try:
        yield
    finally:
        watched = HANDLERS in trainer.run.stash
        give_back(trainer)
        if asked and watched and multiprocessing.parent_process() is not None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent, which sends it on, kills what does not end


def end_if_asked_too_late(trainer: Trainer) -> None:
    """End the program after a run that got SIGTERM when no step boundary was left, as in an evaluation.

    Raises:
        SIGTERMException: The run got SIGTERM.
    """
    if trainer.asked_to_end == SIGTERM:
        raise SIGTERMException


@contextmanager
def _noting(trainer: Trainer, number: signal.Signals, reason: str) -> Generator[None, None, None]:
    """A block in which a signal sets ``asked_to_end``; the previous handler is called too."""
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

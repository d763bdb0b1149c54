"""Being asked to end: SIGTERM is noted at once and acted on at the next step boundary."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from leyden.utilities.rank_zero import rank_zero_info

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer


@contextmanager
def watch_sigterm(trainer: Trainer) -> Generator[None, None, None]:
    """A block in which SIGTERM sets ``trainer.received_sigterm``; the process's own handler is called too.

    Signals reach the main thread only, so a Trainer in another thread watches nothing.
    """
    trainer.received_sigterm = False
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: Any) -> None:
        rank_zero_info("SIGTERM received: the run ends at the next step boundary.")
        trainer.received_sigterm = True
        if callable(previous):
            previous(number, frame)

    signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous if previous is not None else signal.SIG_DFL)

"""The worker processes of loaders: signals that ask a run to end leave them alone, and the run ends them itself.

A cluster, a terminal or ``timeout`` sends a signal to all processes of a job. Without its workers a run could not go on
to the step boundary at which it ends.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader

from leyden.plugins import copy_with

SIGNALS = {signal.SIGTERM, signal.SIGINT}


def undisturbed(loader: Any) -> Any:
    """Return a copy of a DataLoader whose workers do not end when they get SIGTERM or SIGINT.

    Args:
        loader: A loader of any type.

    Returns:
        The copy; the loader itself if it has no workers.
    """
    if not isinstance(loader, DataLoader) or not loader.num_workers:
        return loader
    context: Any = loader.multiprocessing_context or multiprocessing.get_context()
    if type(context) in CONTEXTS:
        context = CONTEXTS[type(context)]()
    return copy_with(loader, worker_init_fn=_Undisturbed(loader.worker_init_fn), multiprocessing_context=context)


class _Undisturbed:
    """What a worker does first: take no notice of the signals, then what the user wants; a class, to be pickled."""

    def __init__(self, user_function: Callable[[int], Any] | None) -> None:
        self._user_function = user_function

    def __call__(self, worker_id: int) -> None:
        for number in SIGNALS:
            # a function, since programs that a worker starts would inherit SIG_IGN
            signal.signal(number, _take_no_notice)
            signal.siginterrupt(number, False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if self._user_function is not None:
            self._user_function(worker_id)


def _take_no_notice(number: int, frame: Any) -> None:
    return None


class _Sheltered(multiprocessing.process.BaseProcess):
    """A process that begins with the signals held back, until it has said what to do with them."""

    def start(self) -> None:
        """Start it; it has the signal mask of the thread that starts it."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _ForkedProcess(_Sheltered, multiprocessing.context.ForkProcess):
    """A sheltered one by fork."""


class _SpawnedProcess(_Sheltered, multiprocessing.context.SpawnProcess):
    """A sheltered one by spawn."""


class _ForkContext(multiprocessing.context.ForkContext):
    Process = _ForkedProcess


class _SpawnContext(multiprocessing.context.SpawnContext):
    Process = _SpawnedProcess


# For the contexts that DataLoaders use; a fork server's processes have that one's mask.
CONTEXTS: dict[type, type] = {
    multiprocessing.context.ForkContext: _ForkContext,
    multiprocessing.context.SpawnContext: _SpawnContext,
}

"""The worker processes of loaders: signals that ask a run to end leave them alone, and the run ends them itself.

A cluster, a terminal or ``timeout`` sends a signal to all processes of a job. Without its workers a run could not go on
to the step boundary at which it ends.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader

from leyden.plugins import copy_with


def undisturbed(loader: Any) -> Any:
    """Return a copy of a DataLoader whose workers do not end when they get SIGTERM or SIGINT.

    Args:
        loader: A loader of any type.

    Returns:
        The copy; the loader itself if it has no workers.
    """
    if not isinstance(loader, DataLoader) or not loader.num_workers:
        return loader
    return copy_with(loader, worker_init_fn=_Undisturbed(loader.worker_init_fn))


class _Undisturbed:
    """What a worker does first: take no notice of the signals, then what the user wants; a class, to be pickled."""

    def __init__(self, user_function: Callable[[int], Any] | None) -> None:
        self._user_function = user_function

    def __call__(self, worker_id: int) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(
                number, _take_no_notice
            )  # unlike SIG_IGN it does not pass on to programs that a worker starts
            signal.siginterrupt(number, False)
        if self._user_function is not None:
            self._user_function(worker_id)


def _take_no_notice(number: int, frame: Any) -> None:
    return None

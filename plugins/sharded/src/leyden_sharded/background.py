"""Saving while training goes on: one save at a time; an old checkpoint is removed once the new one is complete."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from leyden.plugins import CheckpointIO


class Background:
    """Runs tasks in a thread, one after another.

    After a task has failed, no further task runs until :meth:`wait` has raised its error.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="leyden-save")
        self._pending: list[Future[None]] = []
        self._has_failed = False

    def add(self, task: Callable[..., Any], *args: Any) -> None:
        """Run ``task(*args)`` after the tasks that were added before."""
        self._pending.append(self._thread.submit(self._run, task, args))

    def _run(self, task: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if self._has_failed:
            return
        try:
            task(*args)
        except BaseException:
            self._has_failed = True
            raise

    def wait(self) -> None:
        """Wait for all tasks; if one of them failed, raise its error, once."""
        pending, self._pending = self._pending, []
        try:
            for task in pending:
                task.result()
        finally:
            self._has_failed = False


class RemovingLater(CheckpointIO):
    """Removes a checkpoint when the running saves have ended, and keeps it if one of them failed.

    Args:
        storage: The checkpoint IO that saves, loads and removes.
        background: Returns the queue of the running saves.
    """

    def __init__(self, storage: CheckpointIO, background: Callable[[], Background]) -> None:
        self._storage, self._background = storage, background

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        """Save now."""
        self._storage.save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(self, path: str, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load now."""
        return self._storage.load_checkpoint(path, map_location, weights_only)

    def remove_checkpoint(self, path: str) -> None:
        """Remove after the saves that are running now."""
        self._background().add(self._storage.remove_checkpoint, path)

    def teardown(self) -> None:
        """Finish what the storage is still writing."""
        self._storage.teardown()

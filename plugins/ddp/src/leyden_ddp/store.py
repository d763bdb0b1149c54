"""The store through which the watches of the ranks exchange what they know."""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist


class WatchStore:
    """A store that is asked nothing once the process that holds it is gone: PyTorch would print pages of C++ frames.

    Args:
        store: PyTorch's store.
        is_held: Returns whether the process that holds the store is alive, as far as is known.
    """

    def __init__(self, store: dist.Store, is_held: Callable[[], bool]) -> None:
        self._wrapped, self._is_held, self._is_lost = store, is_held, False

    @property
    def _store(self) -> dist.Store:
        if self._is_lost or not self._is_held():
            raise dist.DistStoreError("the process that holds the store is gone")
        return self._wrapped

    def add(self, key: str, amount: int) -> int:
        """Add to a counter and return its new value; an amount of 0 only reads it."""
        try:
            return self._store.add(key, amount)
        except dist.DistNetworkError:
            self._is_lost = True
            raise

    def set(self, key: str, value: str) -> None:
        """Set a key."""
        self._store.set(key, value)

    def get(self, key: str) -> bytes:
        """The value of a key that exists."""
        return self._store.get(key)

    def check(self, keys: list[str]) -> bool:
        """Whether all these keys exist."""
        return self._store.check(keys)

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """The values of keys that exist."""
        return self._store.multi_get(keys)

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        """Set a key if its value is ``expected``, "" for a key that does not exist; returns its value afterwards."""
        return self._store.compare_set(key, expected, value)

"""The keys of the store through which the watches of the ranks talk."""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist


class Keys:
    """A store that is not asked when it is known to be gone: PyTorch would tell of it with pages of C++ frames.

    Args:
        store: The store.
        is_held: Whether the process that holds it is alive, as far as is known.
    """

    def __init__(self, store: dist.Store, is_held: Callable[[], bool]) -> None:
        self._wrapped, self._is_held, self._is_lost = store, is_held, False

    @property
    def _store(self) -> dist.Store:
        if self._is_lost or not self._is_held():
            raise dist.DistStoreError("the process that holds the store is gone")
        return self._wrapped

    def add(self, key: str, amount: int) -> int:
        """Add to a counter and return it; 0 asks."""
        try:
            return self._store.add(key, amount)
        except dist.DistNetworkError:
            self._is_lost = True
            raise

    def set(self, key: str, value: str) -> None:
        """Set a key."""
        self._store.set(key, value)

    def get(self, key: str) -> bytes:
        """The value of a key that is there."""
        return self._store.get(key)

    def check(self, keys: list[str]) -> bool:
        """Whether all the keys are there."""
        return self._store.check(keys)

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """The values of keys that are there."""
        return self._store.multi_get(keys)

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        """Set a key if it has an expected value, "" for none; returns its value afterwards."""
        return self._store.compare_set(key, expected, value)

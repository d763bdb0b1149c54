"""Stash: lets plugins keep their own state in an object of the core, by typed keys."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class StashKey(Generic[T]):
    """The key of one value of type ``T``; no other key is equal to it, so only its maker has it.

    Example::

        started_at = StashKey[float]()
        trainer.run.stash[started_at] = time.monotonic()
    """


class Stash:
    """Values by :class:`StashKey`. Keys of two plugins never clash, as attributes of the same name would."""

    def __init__(self) -> None:
        self._values: dict[StashKey[Any], Any] = {}

    def __setitem__(self, key: StashKey[T], value: T) -> None:
        self._values[key] = value

    def __getitem__(self, key: StashKey[T]) -> T:
        return cast(T, self._values[key])

    def __contains__(self, key: StashKey[Any]) -> bool:
        return key in self._values

    def get(self, key: StashKey[T], default: T) -> T:
        """Return the value, or ``default`` if there is none."""
        return cast(T, self._values.get(key, default))

    def pop(self, key: StashKey[T], default: T) -> T:
        """Remove the value and return it; return ``default`` if there is none."""
        return cast(T, self._values.pop(key, default))

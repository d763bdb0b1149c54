"""Stash: a place where plugins keep state of theirs with an object of the core, by typed keys."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class StashKey(Generic[T]):
    """The key of one value of type ``T``; whoever makes it is the only one who has it.

    Example::

        started_at = StashKey[float]()
        trainer.run.stash[started_at] = time.monotonic()
    """


class Stash:
    """Values by :class:`StashKey`; no two plugins can meet in one key, as in two attributes of one name."""

    def __init__(self) -> None:
        self._values: dict[StashKey[Any], Any] = {}

    def __setitem__(self, key: StashKey[T], value: T) -> None:
        self._values[key] = value

    def __getitem__(self, key: StashKey[T]) -> T:
        return cast(T, self._values[key])

    def __contains__(self, key: StashKey[Any]) -> bool:
        return key in self._values

    def get(self, key: StashKey[T], default: T) -> T:
        """The value, or ``default`` where there is none."""
        return cast(T, self._values.get(key, default))

    def pop(self, key: StashKey[T], default: T) -> T:
        """Remove the value and return it, or ``default`` where there is none."""
        return cast(T, self._values.pop(key, default))

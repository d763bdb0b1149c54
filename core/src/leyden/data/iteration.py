"""One iteration over one loader: its place, for a checkpoint, and going on from there."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from leyden.utilities.rng import collect_rng_states, set_rng_states


class Iteration:
    """An iteration over a loader, from its beginning or from the place of an earlier one.

    The batches are drawn again with the random states with which it began, and those that are behind are read and
    passed over. A plugin may bring a better way for some loaders, with the hook ``leyden_iteration``.

    Args:
        loader: The loader.
        row: The number of batches that a CombinedLoader gave before this began.
        saved: What :meth:`state_dict` of the earlier one returned; {} where that is not known.
        taken: How many of its batches are behind.

    Attributes:
        loader: The loader.
        row: The number of batches that a CombinedLoader gave before this began.
        iterator: Gives the batches that are to come.
        is_asked: Whether the place is to be had only between batches, so that it must be kept before each.
        has_state: Whether the next iteration may depend on how far this one has come.
    """

    is_asked = has_state = False

    def __init__(self, loader: Any, row: int, saved: Mapping[str, Any], taken: int) -> None:
        self.loader, self.row = loader, saved.get("row", row)
        if "rng" in saved:
            self.restore_random_states(saved["rng"], [loader])
        self._place = {"row": self.row, "rng": self.random_states([loader])}
        self.iterator = self.begin(saved, taken)

    @classmethod
    def random_states(cls, loaders: Iterable[Any], *device: Any) -> dict[str, Any]:
        """The random states of this process, on the accelerator and device if they are given, and of the loaders."""
        return {**collect_rng_states(*device), "loaders": [cls.states_of(loader) for loader in loaders]}

    @classmethod
    def restore_random_states(cls, states: Mapping[str, Any], loaders: Iterable[Any], *device: Any) -> None:
        """Put back what :meth:`random_states` returned."""
        for loader, own in zip(loaders, states["loaders"], strict=False):
            cls.restore_states(loader, own)
        set_rng_states(states, *device)

    @staticmethod
    def states_of(loader: Any) -> Any:
        """The random states that a loader has of its own, as plain data."""

    @staticmethod
    def restore_states(loader: Any, states: Any) -> None:
        """Put back what :meth:`states_of` returned; it may draw from the generators of the process."""

    def begin(self, saved: Mapping[str, Any], taken: int) -> Iterator[Any]:
        """Start, and go on after the batches that are behind."""
        iterator: Iterator[Any] = iter(self.loader)
        deque(islice(iterator, taken), maxlen=0)
        return iterator

    def state_dict(self, taken: int) -> dict[str, Any]:
        """The place after ``taken`` batches, which are as many as have been given where :attr:`is_asked`."""
        return dict(self._place)

"""Fetching: batches one at a time, each with the word whether it is the last.

A loader with a length is read only when its batch is wanted, so that a checkpoint taken after a batch has seen
no more of the random state than that batch did. One without a length is read one batch ahead, but not past its limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from leyden.data.combined import INFINITE, CombinedLoader, length_of
from leyden.data.uneven import Uneven
from leyden.utilities.rng import collect_rng_states


class Fetcher:
    """Iterates a CombinedLoader and yields ``(batch, batch_idx, dataloader_idx, is_last)``.

    Args:
        loader: What to iterate.
        skip: Batches to pass over first; the run that is resumed has trained on them.
        measure: Wraps each ``next`` where a profiler wants it, or None.
        uneven: What several processes have agreed on; where it has the epoch go on after the loader's last batch, the
            loader is started over.

    Attributes:
        weight: How much the batch that was yielded last counts, among those of the other processes.
        ahead_rng: The random states before the batch that was read ahead, for an exact resume.
    """

    def __init__(
        self,
        loader: CombinedLoader,
        skip: int = 0,
        measure: Callable[[], Any] | None = None,
        uneven: Uneven | None = None,
    ) -> None:
        self._loader, self._measure, self._uneven = loader, measure, uneven
        self._total = loader.total() if uneven is None else uneven.total
        self._asks = uneven is not None and uneven.asks
        self._ahead = self._asks or any(length_of(one) == INFINITE for one in loader.flattened)
        self._iterator = iter(loader)
        self._following: Any = None
        self._has_ended = False
        self.fetched = 0
        self.weight = self._weight_of_following = 1.0
        self.ahead_rng: dict[str, Any] | None = None
        for _ in range(skip):
            self._pass_over()

    def read_ahead(self, restore: Callable[[], None]) -> None:
        """Read the first batch ahead, where the loader has no length; ``restore`` sets the random state for it."""
        if self._ahead:
            restore()
            self._following = self._agreed(self._next())

    def __iter__(self) -> Iterator[tuple[Any, int, int, bool]]:
        return self._one_ahead() if self._ahead else self._as_asked()

    def _next(self) -> Any:
        if self._measure is None:
            return next(self._iterator, _END)
        with self._measure():
            return next(self._iterator, _END)

    def _pass_over(self) -> None:
        """Go by a batch on which the run that is resumed has trained, perhaps with a loader that was started over."""
        if next(self._iterator, _END) is _END and self._uneven is not None:
            self._has_ended = True
            self._start_over()
        self.fetched += 1

    def _agreed(self, item: Any) -> Any:
        if not self._asks:
            return item
        assert self._uneven is not None
        self._has_ended = self._has_ended or item is _END
        weight = self._uneven.goes_on(not self._has_ended)
        if weight is None:
            return _END
        self._weight_of_following = weight
        return self._start_over() if item is _END else item

    def _start_over(self) -> Any:
        self._iterator = iter(self._loader)
        item = self._next()
        if item is _END:
            raise ValueError("The training loader of this process yields no batches, so it can't be padded with them.")
        return item

    def _as_asked(self) -> Iterator[tuple[Any, int, int, bool]]:
        while self.fetched < self._total:
            item = self._next()
            if item is _END and self._total > self._loader.total():
                item = self._start_over()
            if item is _END:
                return
            if self._uneven is not None:
                self.weight = self._uneven.weight(self.fetched)
            self.fetched += 1
            yield *item, self.fetched >= self._total

    def _one_ahead(self) -> Iterator[tuple[Any, int, int, bool]]:
        item = self._following
        while item is not _END:
            self.fetched += 1
            self.weight = self._weight_of_following
            self.ahead_rng = collect_rng_states()
            self._following = self._agreed(self._next() if self.fetched < self._total else _END)
            yield *item, self._following is _END
            item = self._following


_END = object()

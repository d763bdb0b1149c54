"""Training epochs in which the processes have different numbers of batches: when they end, and which batches count."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from leyden.plugins import END, Fetched, Fetcher
from leyden.utilities import CombinedLoader

if TYPE_CHECKING:
    from leyden_ddp.parallel import ParallelStrategy


class AgreedFetcher(Fetcher):
    """Fetches the same number of batches in every process; all processes make theirs together.

    If the epoch goes on after the last batch of a loader, that loader is started again. If the loader of any process
    has no length, the processes ask each other before every batch.

    Args:
        loader: The loader of this process.
        strategy: The strategy. Its ``uneven_inputs`` says when the epoch ends; its collectives agree on it.
    """

    def __init__(self, loader: CombinedLoader, strategy: ParallelStrategy) -> None:
        super().__init__(loader)
        self._strategy = strategy
        self._ends_together = strategy.uneven_inputs == "stop_together"
        self._weighs = strategy.uneven_inputs == "join"
        self._has_ended = False

    def total(self) -> int | float:
        """The number of batches in the epoch; inf where it is not known."""
        self._own_total = super().total()
        said = self._strategy.all_gather_object((self._own_total, self._reads_ahead))
        self._totals = [total for total, _ in said]
        self._asks_ranks = self._reads_ahead = any(reads_ahead for _, reads_ahead in said)
        return min(self._totals) if self._ends_together else max(self._totals)

    def start(self, saved: Mapping[str, Any] | None = None, measure: Callable[[], Any] | None = None) -> None:
        """Begin with the first batch of the loader, together with all other processes."""
        self._has_ended = bool(saved and saved.get("has_ended"))
        self._weights: deque[float] = deque()  # of the batches that have been read but not yielded yet
        super().start(saved, measure)

    def _place(self, again: bool = False) -> dict[str, Any]:
        return {**super()._place(again), "has_ended": self._has_ended}

    def __iter__(self) -> Iterator[Fetched]:
        for item in super().__iter__():
            yield item._replace(weight=self._weights.popleft())

    def _next(self) -> Any:
        item = super()._next()
        self._has_ended = self._has_ended or item is END
        if self._asks_ranks:
            weight: float | None = self._ask()
        elif item is END and self._total <= self._own_total:  # the loader has fewer batches than its length says
            weight = None
        else:
            weight = self._known_weight()
        if weight is None:
            return END
        self._weights.append(weight)
        return self._start_over() if item is END else item

    def _start_over(self) -> Any:
        self._iterator, self._began = iter(self.loader), self.fetched
        item = super()._next()
        if item is END:
            raise ValueError("The training loader of this process yields no batches, so it can't be padded with them.")
        return item

    def _ask(self) -> float | None:
        """Ask the other processes whether the epoch goes on.

        Returns:
            The weight of this process's next batch; None if the epoch is over.
        """
        has_more = not self._has_ended
        if self._weighs:
            count = int(self._strategy.reduce(torch.tensor(int(has_more)), "sum"))
            return self._weight(has_more, count) if count else None
        return 1.0 if self._strategy.reduce_boolean_decision(has_more, all=self._ends_together) else None

    def _known_weight(self) -> float:
        """The weight of this process's next batch, where the lengths of all loaders are known."""
        if not self._weighs:
            return 1.0
        have_more = [self.fetched < total for total in self._totals]
        return self._weight(have_more[self._strategy.global_rank], sum(have_more))

    def _weight(self, has_more: bool, count: int) -> float:
        """The weight by which a mean over all processes becomes the mean over the ``count`` that have more batches.

        Args:
            has_more: Whether this process has more batches of its own.
            count: How many processes have more.
        """
        return len(self._totals) / count if has_more else 0.0

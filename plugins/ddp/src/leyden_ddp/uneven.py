"""Training epochs in which the processes have different numbers of batches: when they end, and whose batches count."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from leyden.data.combined import CombinedLoader
from leyden.data.fetch import END, Fetched, Fetcher

if TYPE_CHECKING:
    from leyden_ddp.parallel import ParallelStrategy


class AgreedFetcher(Fetcher):
    """Fetches as many batches as every other process; made by all of them at once.

    Where the epoch goes on after the loader's last batch, the loader is started over. If those of any process have no
    length, the processes ask each other before every batch.

    Args:
        loader: This process's.
        strategy: Its ``uneven_inputs`` is the policy, its collectives find the agreement.
    """

    def __init__(self, loader: CombinedLoader, strategy: ParallelStrategy) -> None:
        super().__init__(loader)
        said = strategy.all_gather_object((super().total(), self.has_length))
        self._strategy, self._totals = strategy, [total for total, _ in said]
        self._ends_together = strategy.uneven_inputs == "stop_together"
        self._weighs = strategy.uneven_inputs == "join"
        self._asks = self._reads_ahead = not all(has_length for _, has_length in said)

    def total(self) -> int | float:
        """Batches of the epoch, as far as they are known."""
        return min(self._totals) if self._ends_together else max(self._totals)

    def start(self, skip: int = 0, measure: Callable[[], Any] | None = None) -> None:
        """Begin with the loader's first batch, as all others do."""
        self._has_ended = False
        self._weights: deque[float] = deque()  # of the batches that are read and not yielded yet
        super().start(skip, measure)

    def __iter__(self) -> Iterator[Fetched]:
        for item in super().__iter__():
            yield item._replace(weight=self._weights.popleft())

    def _next(self) -> Any:
        item = super()._next()
        self._has_ended = self._has_ended or item is END
        if self._asks:
            weight: float | None = self._ask()
        elif item is END and self._total <= super().total():  # it gives fewer batches than it says
            weight = None
        else:
            weight = self._known_weight()
        if weight is None:
            return END
        self._weights.append(weight)
        return self._start_over() if item is END else item

    def _pass_over(self) -> None:
        if super()._next() is END:
            self._has_ended = True
            self._start_over()

    def _start_over(self) -> Any:
        self._iterator = iter(self.loader)
        item = super()._next()
        if item is END:
            raise ValueError("The training loader of this process yields no batches, so it can't be padded with them.")
        return item

    def _ask(self) -> float | None:
        """Ask whether the epoch goes on: the weight of this process's next batch if it does, None if it is over."""
        has_more = not self._has_ended
        if self._weighs:
            count = int(self._strategy.reduce(torch.tensor(int(has_more)), "sum"))
            return self._weight(has_more, count) if count else None
        return 1.0 if self._strategy.reduce_boolean_decision(has_more, all=self._ends_together) else None

    def _known_weight(self) -> float:
        """The weight of this process's next batch, where nobody needs to ask."""
        if not self._weighs:
            return 1.0
        have_more = [self.fetched < total for total in self._totals]
        return self._weight(have_more[self._strategy.global_rank], sum(have_more))

    def _weight(self, has_more: bool, count: int) -> float:
        """What makes the mean over all processes, which gradients are, one over the ``count`` that have more."""
        return len(self._totals) / count if has_more else 0.0

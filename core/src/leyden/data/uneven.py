"""Training epochs in which the processes have different numbers of batches: when they end, and whose batches count."""

from __future__ import annotations

import torch

from leyden.interfaces.strategy import Strategy


class Uneven:
    """What the processes agree on for an epoch; made by all of them at once.

    Args:
        strategy: Its ``uneven_inputs`` is the policy, its collectives find the agreement.
        total: Batches of this process's loader; inf where it has no length.
        has_length: Whether all parts of that loader have a length. If those of any process have none, the processes
            ask each other before every batch.

    Attributes:
        total: Batches of the epoch, as far as they are known.
        asks: Whether the processes ask each other.
        weighs: Whether batches have weights; else each counts 1.
    """

    def __init__(self, strategy: Strategy, total: int | float, has_length: bool) -> None:
        said = strategy.all_gather_object((total, has_length))
        self._strategy, self._totals = strategy, [total for total, _ in said]
        self._together = strategy.uneven_inputs == "stop_together"
        self.total = (min if self._together else max)(self._totals)
        self.asks = not all(has_length for _, has_length in said)
        self.weighs = strategy.uneven_inputs == "join"

    def goes_on(self, has_more: bool) -> float | None:
        """Ask whether the epoch goes on: the weight of this process's next batch if it does, None if it is over.

        Args:
            has_more: Whether this process's loader has a batch that it has not given yet.
        """
        if self.weighs:
            count = self._strategy.reduce(torch.tensor(int(has_more)), "sum")
            return self._weight(has_more, int(count)) if count else None
        return 1.0 if self._strategy.reduce_boolean_decision(has_more, all=self._together) else None

    def weight(self, number: int) -> float:
        """The weight of this process's batch ``number``, from 0, where nobody needs to ask."""
        if not self.weighs:
            return 1.0
        has_more = number < self._totals[self._strategy.global_rank]
        return self._weight(has_more, sum(number < total for total in self._totals))

    def _weight(self, has_more: bool, count: int) -> float:
        """What makes the mean over all processes, which gradients are, one over the ``count`` that have more."""
        return len(self._totals) / count if has_more else 0.0

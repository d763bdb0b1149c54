"""Batches: fetched one at a time, each with the word whether it is the last, and brought to the device.

A loader with a length is read only when a batch is needed, so a checkpoint that is saved after a batch has the random
state of exactly that point. A loader without a length is read one batch ahead, but not beyond its limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from leyden.data.combined import INFINITE, CombinedLoader, length_of
from leyden.interfaces.precision import Precision
from leyden.interfaces.strategy import Strategy
from leyden.mixins.hooks import DataHooks
from leyden.plugin_system.hooks import TRANSFER_HOOKS
from leyden.utilities import move_data_to_device
from leyden.utilities.objects import is_overridden
from leyden.utilities.rng import collect_rng_states

if TYPE_CHECKING:
    from leyden.trainer.run import Run

END = object()


class Fetched(NamedTuple):
    """A batch, with what the loop must know about it.

    Attributes:
        batch: The batch, on the CPU.
        batch_idx: Its index in its loader, from 0.
        dataloader_idx: The index of its loader, from 0.
        is_last: Whether it is the last batch of the pass.
        weight: Its weight relative to the other processes' batches; 0 if this process only repeats a batch.
    """

    batch: Any
    batch_idx: int
    dataloader_idx: int
    is_last: bool
    weight: float


class Fetcher:
    """Iterates a CombinedLoader and yields :class:`Fetched`; call :meth:`start` first.

    A strategy with several processes may use a subclass instead.

    Args:
        loader: The loader.

    Attributes:
        loader: The loader.
        has_length: Whether all parts of the loader have a length.
        fetched: The number of batches yielded or skipped so far.
        weight: The weight of the batch that is yielded next; a subclass may set it.
        ahead_rng: The random states before the batch that was read ahead, for exact resumption.
    """

    weight = 1.0

    def __init__(self, loader: CombinedLoader) -> None:
        self.loader = loader
        self.has_length = all(length_of(one) != INFINITE for one in loader.flattened)
        self._reads_ahead = not self.has_length
        self._following: Any = None
        self._iterator: Iterator[Any] = iter(())
        self.ahead_rng: dict[str, Any] | None = None

    def total(self) -> int | float:
        """Return the number of batches in an iteration; inf if unknown."""
        return self.loader.total()

    def start(self, skip: int = 0, measure: Callable[[], Any] | None = None) -> None:
        """Start an iteration.

        Args:
            skip: The number of batches to skip first, since the run that is resumed has trained on them.
            measure: Makes a context in which each batch is read, for a profiler; None for no profiler.
        """
        self._total, self._measure, self.ahead_rng = self.total(), None, None
        self._following, self._iterator = None, iter(())  # the last epoch's workers end before there are new ones
        self._iterator = iter(self.loader)
        for _ in range(skip):
            self._pass_over()
        self.fetched, self._measure = skip, measure

    def read_ahead(self, restore: Callable[[], None]) -> None:
        """Call ``restore`` to set the random states and read the first batch, if the loader has no length."""
        if self._reads_ahead:
            restore()
            self._following = self._next()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_following": None, "_iterator": iter(())}

    def __iter__(self) -> Iterator[Fetched]:
        return self._one_ahead() if self._reads_ahead else self._as_asked()

    def _next(self) -> Any:
        """Return the loader's next item, or END."""
        if self._measure is None:
            return next(self._iterator, END)
        with self._measure():
            return next(self._iterator, END)

    def _pass_over(self) -> None:
        next(self._iterator, END)

    def _as_asked(self) -> Iterator[Fetched]:
        while self.fetched < self._total and (item := self._next()) is not END:
            self.fetched += 1
            yield Fetched(item[0], item[1], item[2], self.fetched >= self._total, self.weight)

    def _one_ahead(self) -> Iterator[Fetched]:
        item = self._following
        while item is not END:
            self.fetched += 1
            self.ahead_rng = collect_rng_states()
            self._following = self._next() if self.fetched < self._total else END
            yield Fetched(item[0], item[1], item[2], self._following is END, self.weight)
            item = self._following


def transfer_function(run: Run, dataloader_idx: int) -> Callable[[Any], Any]:
    """A function that takes a batch of one loader and returns it, converted and on the device."""
    strategy, precision, metrics = run.strategy, run.strategy.precision, run.metrics
    to_device: Callable[[Any], Any] = strategy.batch_to_device
    if type(strategy).batch_to_device is Strategy.batch_to_device:
        non_blocking = strategy.accelerator.non_blocking_transfer
        to_device = partial(move_data_to_device, device=strategy.root_device, non_blocking=non_blocking)
    converts = type(precision).convert_input is not Precision.convert_input
    before, move, after = (_own_hook(run, name) for name in TRANSFER_HOOKS)
    if not (converts or before or move or after):
        return to_device

    def transfer(batch: Any) -> Any:
        with metrics.scope("on_before_batch_transfer"):
            if converts:
                batch = precision.convert_input(batch)
            if before is not None:
                batch = before(batch, dataloader_idx)
            batch = move(batch, strategy.root_device, dataloader_idx) if move is not None else to_device(batch)
            return after(batch, dataloader_idx) if after is not None else batch

    return transfer


def _own_hook(run: Run, name: str) -> Callable[..., Any] | None:
    """A transfer hook that is overridden: the data module's before the module's; None if neither has its own."""
    for owner in (run.datamodule, run.module):
        if owner is not None and is_overridden(name, owner, DataHooks):
            hook: Callable[..., Any] = getattr(owner, name)
            return hook
    return None

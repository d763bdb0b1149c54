"""Batches: fetched one at a time, each with the word whether it is the last, and brought to the device.

A loader whose length is sure is read only when a batch is needed, so a checkpoint that is saved after a batch has the
random state of exactly that point. Any other is read one batch ahead, but not beyond its limit: only so is it known
which batch is the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from leyden.data.combined import CombinedLoader, has_sure_length
from leyden.interfaces.precision import Precision
from leyden.interfaces.strategy import Strategy
from leyden.mixins.hooks import DataHooks
from leyden.plugin_system.hooks import TRANSFER_HOOKS
from leyden.utilities import move_data_to_device
from leyden.utilities.objects import is_overridden

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
    """Iterates a CombinedLoader and yields :class:`Fetched`; call :meth:`plan` and :meth:`start` first.

    A strategy with several processes may use a subclass instead.

    Args:
        loader: The loader.

    Attributes:
        loader: The loader.
        fetched: The number of batches yielded or passed over so far.
        weight: The weight of the batch that is yielded next; a subclass may set it.
    """

    weight = 1.0

    def __init__(self, loader: CombinedLoader) -> None:
        self.loader = loader
        self._reads_ahead, self._asks = not all(map(has_sure_length, loader.flattened)), False
        self._iterator: Iterator[Any] = iter(())
        self._following: Any = None
        self._places: list[Any] = [None, None]
        self.fetched = self._began = 0
        self._ended: Any = None

    def total(self) -> int | float:
        """The number of batches in the next iteration; inf if unknown. It is asked once before each."""
        return self.loader.total()

    def plan(self) -> int | float:
        """Ask for the number of batches in the next iteration, which may be another than in the last."""
        self._total = self.total()
        return self._total

    def start(self, saved: Mapping[str, Any] | None = None, measure: Callable[[], Any] | None = None) -> None:
        """Start an iteration.

        Args:
            saved: What :meth:`state_dict` returned, to go on from there. Of a run that can't be resumed exactly,
                "fetched" alone: how many batches are to be passed over.
            measure: Makes a context in which each batch is read, for a profiler; None for no profiler.
        """
        saved = saved or {"fetched": 0}
        self._ended = self.state_dict(over=True) if self.loader.iterations else saved.get("ended")
        self._measure = measure
        self._following, self._iterator = None, iter(())  # the last epoch's workers end before there are new ones
        self.fetched, self._began = saved["fetched"], saved.get("began", 0)
        self.loader.load_state_dict(saved.get("loader", {"row": self.fetched}))
        self._iterator = iter(self.loader)
        self._asks = any(iteration.is_asked for iteration in self.loader.iterations.values())
        if self._reads_ahead:
            if "rng" in saved:
                self.loader.iteration.restore_random_states(saved["rng"], self.loader.flattened)
            self._keep_place()
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

    def _as_asked(self) -> Iterator[Fetched]:
        while self.fetched < self._total:
            if self._asks:
                self._keep_place()
            if (item := self._next()) is END:
                return
            self.fetched += 1
            fetched = Fetched(item[0], item[1], item[2], self.fetched >= self._total, self.weight)
            item = None  # zip gives the same tuple again only if nobody has it, and keeps an older batch else
            yield fetched

    def _one_ahead(self) -> Iterator[Fetched]:
        item, weight = self._following, self.weight
        while item is not END:
            self.fetched += 1
            self._keep_place()
            self._following = self._next() if self.fetched < self._total else END
            yield Fetched(item[0], item[1], item[2], self._following is END, weight)
            item, weight = self._following, self.weight

    # -- for checkpoints ----------------------------------------------------------------------------------

    def _place(self, again: bool = False) -> dict[str, Any]:
        """The place of the loader now, or one batch before where no loader is asked."""
        fetched = self.fetched - again
        ended = self._ended if fetched == 0 else None
        place: dict[str, Any] = {"fetched": fetched, "began": self._began, "ended": ended}
        place["loader"] = self.loader.state_dict(max(0, fetched - self._began))
        if self._reads_ahead:
            place["rng"] = self.loader.iteration.random_states(self.loader.flattened)
        return place

    def _keep_place(self) -> None:
        """Keep the place from before a batch is read, which is not to be had afterwards."""
        self._places = [self._places[1], self._place()]

    def state_dict(self, again: bool = False, over: bool = False) -> dict[str, Any]:
        """The place from which another process goes on.

        Args:
            again: Whether the last batch that was yielded is to be trained on again.
            over: Whether the iteration is over. What the next one gives may depend on how a loader that keeps its own
                state came to its end, so that the last batch is then to be read once more, from the place before it.
        """
        again = (again or (over and self._asks)) and self.fetched > over
        if self._reads_ahead:
            place = self._places[0 if again else 1]
        else:
            place = self._places[1] if again and self._asks else self._place(again)
        has_state = any(iteration.has_state for iteration in self.loader.iterations.values())
        return {**(place or {"fetched": 0}), "again": int(again), "has_state": has_state}


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

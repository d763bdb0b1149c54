"""One pass over loaders without gradients: what validation, testing and prediction have in common.

on_…_model_eval                                   _run_pass
on_…_start, on_…_epoch_start
every batch of every loader                       the loop's own _run_batches
on_…_epoch_end
on_…_end
on_…_model_train
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Module

from leyden.data.combined import INFINITE, CombinedLoader, length_of
from leyden.data.fetch import Fetcher
from leyden.data.loading import DataSource, load, warn_of_no_batches
from leyden.interfaces.precision import Precision
from leyden.loops.step import takes_any, takes_arguments, takes_named
from leyden.metrics import Results
from leyden.module import LightningModule
from leyden.utilities.objects import is_overridden
from leyden.utilities.states import RunningStage

if TYPE_CHECKING:
    from leyden.trainer.run import Run


class SinglePass:
    """The frame of a pass; a loop adds where its loaders come from and what happens to a batch.

    Args:
        run: The run that it is of.
        stage: ``VALIDATING``, ``TESTING`` or ``PREDICTING``.
        source: Where the loaders come from; None where there are none.
        within_fit: Whether autograd must stay usable after it.

    Attributes:
        name: The stage's part of the names of steps and hooks.
        loader: The loaders, combined; None before the first run.
        results: What was logged in it; None where nothing can be.
        sizes: Batches of each loader, within the limits; empty where there is nothing to do.
        batches: Batches of each loader in each process, within the limits; inf where a loader has no length.
    """

    def __init__(
        self, run: Run, stage: RunningStage, source: DataSource | None = None, within_fit: bool = False
    ) -> None:
        self._run, self.trainer, self.stage, self.within_fit = run, run.trainer, stage, within_fit
        self.name = "validation" if stage == RunningStage.VALIDATING else stage.dataloader_prefix
        self.source = source
        self.loader: CombinedLoader | None = None
        self.results: Results | None = None
        self.sizes: list[int | float] = []
        self.batches: list[tuple[int | float, ...]] = []
        self._has_batches = False  # of any loader in any process, so that all of them make the pass

    @property
    def max_batches(self) -> list[int | float]:
        """Batches that a pass takes from each loader: fewer in a sanity check."""
        if self._run.sanity_checking:
            return [min(self.trainer.num_sanity_val_steps, size) for size in self.sizes]
        return self.sizes

    def _run_pass(self) -> list[Any]:
        """Take every batch in evaluation mode, put every submodule's mode back, and return the outputs."""
        module = self._run.module
        step = self._step()
        modes = {part: part.training for part in module.modules()}
        inference = self.trainer.inference_mode and not self.within_fit
        with torch.inference_mode() if inference else torch.no_grad():
            self._module_hook("model_eval")()
            self._hook("start")()
            self._hook("epoch_start")()
            outputs = self._run_batches(step)
            self._hook("epoch_end")()
            self._end_epoch(outputs)
            self._hook("end")()
            if is_overridden(f"on_{self.name}_model_train", module, LightningModule):
                self._module_hook("model_train")()
            else:
                restore_modes(modes)
        return outputs

    def _load(self) -> CombinedLoader:
        """Ask for the loaders, and refuse those that the pass can't take."""
        assert self.source is not None
        self.loader = loader = load(self.trainer, self.source, self.stage, "sequential")
        self._check(loader)
        self._tell_batches(loader)
        if loader.flattened and not any(map(any, self.batches)):
            warn_of_no_batches(self.source)
        self.sizes = loader.sizes()
        return loader

    def _check(self, loader: CombinedLoader) -> None:
        """Refuse a step that can't tell its loaders apart."""
        name = f"{self.name}_step"
        if has_several(loader) and not takes_arguments(getattr(self._run.module, name), 3):
            raise RuntimeError(
                f"There are {len(loader.flattened)} loaders, so {name} must take dataloader_idx as its third argument."
            )

    def _tell_batches(self, loader: CombinedLoader) -> None:
        """Tell the other processes how many batches there are here: one without any waits for those of the others."""
        sizes = loader.sizes()
        known = [
            INFINITE if length_of(one) == INFINITE else size for one, size in zip(loader.flattened, sizes, strict=True)
        ]
        own = known if has_several(loader) else [INFINITE if INFINITE in known else loader.total()]
        told = self.trainer.strategy.all_gather_object((own, any(sizes)))
        self.batches = list(zip(*(counts for counts, _ in told), strict=True))
        self._has_batches = any(has_batches for _, has_batches in told)

    def _run_batches(self, step: Callable[..., Any]) -> list[Any]:
        """Give every batch to ``step``, which takes batch, batch_idx and dataloader_idx."""
        raise NotImplementedError

    def _end_epoch(self, outputs: list[Any]) -> None:
        """After the last hook that may log."""

    def _fetcher(self) -> Fetcher:
        assert self.loader is not None
        action = f"[{type(self).__name__}].{self.stage.dataloader_prefix}_dataloader_next"
        fetcher = Fetcher(self.loader)
        fetcher.start(measure=self._run.timer(action))
        fetcher.read_ahead(lambda: None)
        return fetcher

    def _step(self) -> Callable[..., Any]:
        """The step with as many of (batch, batch_idx, dataloader_idx) as it takes, in the precision's context."""
        run, name = self._run, f"{self.name}_step"
        assert self.loader is not None
        step = run.strategy.step_function(run.module, name)
        step = run.timed(f"[Strategy]{type(run.strategy).__name__}.{name}", step)
        return in_context(run, name, step, argument_count(getattr(run.module, name), self.loader))

    def _module_hook(self, suffix: str) -> Callable[[], None]:
        hook: Callable[[], None] = getattr(self._run.module, f"on_{self.name}_{suffix}")
        return hook

    def _hook(self, suffix: str) -> Callable[..., Any]:
        hook: Callable[..., Any] = getattr(self._run.hooks, f"on_{self.name}_{suffix}")
        return hook


def restore_modes(modes: dict[Module, bool]) -> None:
    """Put every submodule back into the mode it was in."""
    for module, training in modes.items():
        module.training = training


def argument_count(function: Callable[..., Any], loader: CombinedLoader) -> int:
    """How many of (batch, batch_idx, dataloader_idx) a step takes.

    One that takes any number passes them on to another, which need not know of ``dataloader_idx`` where there is one
    loader.
    """
    if takes_any(function) and not takes_named(function, 3) and not has_several(loader):
        return 2
    return next((count for count in (3, 2) if takes_arguments(function, count)), 1)


def has_several(loader: CombinedLoader) -> bool:
    """Whether a step must be told which loader a batch is of."""
    return len(loader.flattened) > 1 and loader.mode == "sequential"


def in_context(run: Run, name: str, step: Callable[..., Any], count: int) -> Callable[..., Any]:
    """A step that is called with all three arguments.

    Args:
        run: In its precision's context and its scope of logging the step is called.
        name: The step's name.
        step: The step.
        count: How many of the arguments it gets.
    """
    precision, metrics = run.strategy.precision, run.metrics
    context = precision.forward_context if is_overridden("forward_context", precision, Precision) else None

    def call(*values: Any) -> Any:
        outer, metrics.hook = metrics.hook, name
        try:
            if context is None:
                return step(*values[:count])
            with context():
                return step(*values[:count])
        finally:
            metrics.hook = outer

    return call

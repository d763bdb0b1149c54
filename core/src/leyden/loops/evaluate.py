"""Evaluation: one pass over the validation or test loaders, alone or within a fit.

on_validation_model_eval                          run
on_validation_start, on_validation_epoch_start
for each batch of each loader:                    _run_batches
    transfer to the device
    on_validation_batch_start
    validation_step
    on_validation_batch_end
on_validation_epoch_end, on_validation_end
on_validation_model_train
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Module

from leyden.data.combined import CombinedLoader
from leyden.data.fetch import Fetcher
from leyden.data.hints import warn_of_shuffling
from leyden.data.loading import DataSource, load
from leyden.data.samplers import set_sampler_epoch
from leyden.data.transfer import transfer_function
from leyden.hooktable import is_overridden
from leyden.interfaces.precision import Precision
from leyden.loops.progress import VALIDATION_END
from leyden.loops.step import takes_any, takes_arguments, takes_named
from leyden.module import LightningModule
from leyden.results import Results
from leyden.states import RunningStage
from leyden.utilities.table import results_table

if TYPE_CHECKING:
    from leyden.trainer import Trainer


class EvaluationLoop:
    """Validation or test.

    Args:
        trainer: The Trainer.
        stage: ``VALIDATING`` or ``TESTING``.
        within_fit: Whether this is the validation of a fit, which prints no table and keeps autograd usable.

    Attributes:
        verbose: Whether the results are printed, outside of a fit.
        loader: The loaders, combined; None before the first run.
        sizes: Batches of each loader, within the limits.
        current_batch: Batches of this pass that are done.
        seen: Batches of each loader in all passes since it was made; the step under which evaluation steps are logged.
    """

    def __init__(self, trainer: Trainer, stage: RunningStage, within_fit: bool = False) -> None:
        self.trainer, self.stage, self.within_fit = trainer, stage, within_fit
        self.verbose = True
        self.name = "test" if stage == RunningStage.TESTING else "validation"
        self.results = Results()
        self.source: DataSource | None = None
        self.loader: CombinedLoader | None = None
        self.sizes: list[int | float] = []
        self.current_batch = 0
        self.seen: Counter[int] = Counter()
        self._loaded_in_epoch = -1

    @property
    def max_batches(self) -> list[int | float]:
        """Batches that a pass takes from each loader: fewer in a sanity check."""
        if self.trainer.sanity_checking:
            return [min(self.trainer.num_sanity_val_steps, size) for size in self.sizes]
        return self.sizes

    def run(self) -> list[dict[str, Any]]:
        """Evaluate; returns for each loader what was logged for it."""
        trainer = self.trainer
        self.setup_data()
        if not self.max_batches or sum(self.max_batches) == 0:
            return []
        outer = trainer.logging.enter(self.results)
        with self._without_gradients():
            outputs = self._evaluate()
        trainer.logging.leave(outer)
        if self.within_fit:
            return outputs
        numbers = [{name: value.item() for name, value in output.items()} for output in outputs]
        if (
            self.verbose
            and trainer.is_global_zero
            and not trainer.barebones
            and (table := results_table(numbers, self.stage.value))
        ):
            trainer.print(table)
        return numbers

    def _evaluate(self) -> list[dict[str, Any]]:
        trainer, logging = self.trainer, self.trainer.logging
        steps = self._step_arguments()
        modes = {part: part.training for part in trainer.lightning_module.modules()}
        self._module_hook("model_eval")()
        self._call("start")
        self._call("epoch_start")
        done: Counter[int] = Counter()
        outputs = self._run_batches(steps, done)
        self.results.dataloader_idx = None
        self.results.epoch_ended = True
        self._call("epoch_end")
        if not trainer.sanity_checking:
            logging.end_epoch()
            epoch_metrics = logging.metrics_for_loggers()
            for output in outputs:
                output.update(epoch_metrics)
            logging.send({name: value for output in reversed(outputs) for name, value in output.items()})
        if not trainer.sanity_checking:
            self.seen.update(done)
        if self.within_fit and not trainer.sanity_checking:
            trainer.progress.phase = VALIDATION_END  # a run resumed from a checkpoint of this hook goes on after it
        self._call("end")
        if is_overridden(f"on_{self.name}_model_train", trainer.lightning_module, LightningModule):
            self._module_hook("model_train")()
        else:
            restore_modes(modes)
        return outputs

    def _run_batches(self, takes: Callable[..., Any], done: Counter[int]) -> list[dict[str, Any]]:
        trainer, logging, hooks = self.trainer, self.trainer.logging, self.trainer.hooks
        assert self.loader is not None
        count = len(self.loader.flattened)
        several = are_several(self.loader)
        transfers = [transfer_function(trainer, i) for i in range(max(count, 1))]
        batch_start = getattr(hooks, f"on_{self.name}_batch_start")
        batch_end = getattr(hooks, f"on_{self.name}_batch_end")
        measure = trainer.measure(f"[EvaluationLoop].{self.stage.dataloader_prefix}_dataloader_next")
        outputs: list[dict[str, Any]] = []
        previous, self.current_batch = 0, 0
        for batch, batch_idx, dataloader_idx, _ in self._fetcher(measure):
            if dataloader_idx != previous:
                outputs.extend(logging.end_dataloader() for _ in range(previous, dataloader_idx))
                previous = dataloader_idx
            batch = transfers[dataloader_idx](batch)
            logging.start_batch(batch, dataloader_idx if several else None)
            if batch_start is not None:
                batch_start(batch, batch_idx, dataloader_idx)
            logging.hook = f"{self.name}_step"
            output = takes(batch, batch_idx, dataloader_idx)
            logging.hook = None
            self.current_batch += 1
            if batch_end is not None:
                batch_end(output, batch, batch_idx, dataloader_idx)
            logging.end_evaluation_batch(self.seen[dataloader_idx] + batch_idx)
            done[dataloader_idx] += 1
        outputs.append(logging.end_dataloader())
        return outputs

    def _fetcher(self, measure: Callable[[], Any] | None) -> Fetcher:
        assert self.loader is not None
        fetcher = Fetcher(self.loader, measure=measure)
        fetcher.read_ahead(lambda: None)
        return fetcher

    def _step_arguments(self) -> Callable[..., Any]:
        """The step with as many of (batch, batch_idx, dataloader_idx) as it takes, in the precision's context."""
        trainer, name = self.trainer, f"{self.name}_step"
        assert self.loader is not None
        function = getattr(trainer.lightning_module, name)
        step = trainer.strategy.step_function(trainer.lightning_module, name)
        step = trainer.measured(f"[Strategy]{type(trainer.strategy).__name__}.{name}", step)
        return in_context(trainer, step, argument_count(function, self.loader))

    def _module_hook(self, suffix: str) -> Callable[[], None]:
        hook: Callable[[], None] = getattr(self.trainer.lightning_module, f"on_{self.name}_{suffix}")
        return hook

    def _call(self, suffix: str) -> None:
        hook = getattr(self.trainer.hooks, f"on_{self.name}_{suffix}")
        if hook is not None:
            hook()

    def _without_gradients(self) -> Any:
        inference = self.trainer.inference_mode and not self.within_fit
        return torch.inference_mode() if inference else torch.no_grad()

    def setup_data(self) -> None:
        """Ask for the loaders: in every run alone; within a fit, once and whenever they are due again."""
        trainer = self.trainer
        limit = getattr(trainer, f"limit_{self.stage.dataloader_prefix}_batches")
        if limit == 0 or not is_overridden(f"{self.name}_step", trainer.lightning_module, LightningModule):
            self.sizes = []
            return
        every = trainer.reload_dataloaders_every_n_epochs
        due = bool(every) and trainer.current_epoch - self._loaded_in_epoch >= every
        if self.loader is None or not self.within_fit or due:
            assert self.source is not None
            first = self.loader is None or not self.within_fit
            if self.loader is not None:
                self.seen.clear()
            self.loader = load(trainer, self.source, self.stage, "sequential")
            step = f"{self.name}_step"
            require_dataloader_idx(getattr(trainer.lightning_module, step), step, self.loader)
            if first and not trainer.barebones:
                warn_of_shuffling(self.loader.flattened, self.source)
            self.sizes = self.loader.sizes()
            self._loaded_in_epoch = trainer.current_epoch
        if self.within_fit and not trainer.sanity_checking:
            for loader in self.loader.flattened:
                set_sampler_epoch(loader, trainer.progress.epoch)
        self.loader.limits = self.max_batches


def restore_modes(modes: dict[Module, bool]) -> None:
    """Put every submodule back into the mode it was in."""
    for module, training in modes.items():
        module.training = training


def argument_count(function: Callable[..., Any], loader: CombinedLoader) -> int:
    """How many of (batch, batch_idx, dataloader_idx) a step takes.

    One that takes any number passes them on to another, which need not know of ``dataloader_idx`` where there is one
    loader.
    """
    if takes_any(function) and not takes_named(function, 3) and not are_several(loader):
        return 2
    return next((count for count in (3, 2) if takes_arguments(function, count)), 1)


def are_several(loader: CombinedLoader) -> bool:
    """Whether a step must be told which loader a batch is of."""
    return len(loader.flattened) > 1 and loader.mode == "sequential"


def require_dataloader_idx(function: Callable[..., Any], name: str, loader: CombinedLoader) -> None:
    """Refuse a step that can't tell its loaders apart."""
    if are_several(loader) and not takes_arguments(function, 3):
        raise RuntimeError(
            f"There are {len(loader.flattened)} loaders, so {name} must take dataloader_idx as its third argument."
        )


def in_context(trainer: Trainer, step: Callable[..., Any], count: int) -> Callable[..., Any]:
    """A step called with all three arguments, of which it gets ``count``, in the precision's context if it has one."""
    precision = trainer.precision_plugin
    if not is_overridden("forward_context", precision, Precision):
        return step if count == 3 else lambda *values: step(*values[:count])

    def call(*values: Any) -> Any:
        with precision.forward_context():
            return step(*values[:count])

    return call

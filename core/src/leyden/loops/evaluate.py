"""Evaluation: one pass over the validation or test loaders, alone or within a fit.

on_validation_model_eval                          single_pass.py
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

from leyden.data.samplers import set_sampler_epoch
from leyden.data.transfer import transfer_function
from leyden.loops.progress import VALIDATION_END
from leyden.loops.single_pass import SinglePass, are_several
from leyden.metrics import Results
from leyden.module import LightningModule
from leyden.plugin_system.table import nothing
from leyden.utilities.overriding import is_overridden
from leyden.utilities.states import RunningStage

if TYPE_CHECKING:
    from leyden.trainer import Trainer


class EvaluationLoop(SinglePass):
    """Validation or test.

    Args:
        trainer: The Trainer.
        stage: ``VALIDATING`` or ``TESTING``.
        within_fit: Whether this is the validation of a fit, which shows no results and keeps autograd usable.

    Attributes:
        verbose: Whether the results are shown, outside of a fit.
        current_batch: Batches of this pass that are done.
        seen: Batches of each loader in all passes since it was made; the step under which evaluation steps are logged.
    """

    def __init__(self, trainer: Trainer, stage: RunningStage, within_fit: bool = False) -> None:
        super().__init__(trainer, stage, within_fit)
        self.verbose = True
        self.results = Results(trainer)
        self.current_batch = 0
        self.seen: Counter[int] = Counter()
        self._done: Counter[int] = Counter()

    def run(self) -> list[dict[str, Any]]:
        """Evaluate; returns for each loader what was logged for it."""
        trainer = self.trainer
        self.setup_data()
        if not self.max_batches or not self._has_batches:
            return []
        outer = trainer.logging.enter(self.results)
        outputs = self.go_over()
        trainer.logging.leave(outer)
        if self.within_fit:
            return outputs
        numbers = [{name: value.item() for name, value in output.items()} for output in outputs]
        if self.verbose and trainer.is_global_zero and not trainer.barebones:
            show = trainer.plugin_manager.hook.leyden_show_results
            show(trainer=trainer, stage=self.stage.value, results=numbers)
        return numbers

    def _end_epoch(self, outputs: list[Any]) -> None:
        trainer, logging = self.trainer, self.trainer.logging
        if trainer.sanity_checking:
            return
        epoch_metrics = logging.end_epoch()
        for output in outputs:
            output.update(epoch_metrics)
        logging.send({name: value for output in reversed(outputs) for name, value in output.items()})
        self.seen.update(self._done)
        if self.within_fit:
            trainer.progress.phase = VALIDATION_END  # a run resumed from a checkpoint of on_validation_end is after it

    def _run_batches(self, step: Callable[..., Any]) -> list[dict[str, Any]]:
        trainer, logging, hooks = self.trainer, self.trainer.logging, self.trainer.hooks
        assert self.loader is not None
        several = are_several(self.loader)
        transfers = [transfer_function(trainer, i) for i in range(len(self.loader.flattened))]
        batch_start = getattr(hooks, f"on_{self.name}_batch_start")
        batch_end = getattr(hooks, f"on_{self.name}_batch_end")
        outputs: list[dict[str, Any]] = []
        ended, self.current_batch = 0, 0
        self._done.clear()
        for batch, batch_idx, dataloader_idx, _ in self._fetcher():
            if dataloader_idx != ended:
                outputs.extend(self._end_dataloader(i) for i in range(ended, dataloader_idx))
                ended = dataloader_idx
            batch = transfers[dataloader_idx](batch)
            logging.start_batch(batch, dataloader_idx if several else None)
            if batch_start is not nothing:
                batch_start(batch, batch_idx, dataloader_idx)
            logging.hook = f"{self.name}_step"
            output = step(batch, batch_idx, dataloader_idx)
            logging.hook = None
            self.current_batch += 1
            if batch_end is not nothing:
                batch_end(output, batch, batch_idx, dataloader_idx)
            logging.end_evaluation_batch(self.seen[dataloader_idx] + batch_idx)
            self._done[dataloader_idx] += 1
        outputs.extend(self._end_dataloader(i) for i in range(ended, len(self.batches)))
        self.results.dataloader_idx = None
        return outputs

    def _end_dataloader(self, i: int) -> dict[str, Any]:
        """What was logged for loader ``i``, of which some processes may have had fewer batches, or none."""
        assert self.loader is not None
        self.results.dataloader_idx = i if are_several(self.loader) else None
        self.trainer.strategy.agree_on_results(self.results, self.trainer.lightning_module, self.batches[i])
        return self.trainer.logging.end_epoch()

    def setup_data(self) -> None:
        """Ask for the loaders: in every run alone; within a fit, once and whenever they are due again."""
        trainer = self.trainer
        limit = getattr(trainer, f"limit_{self.stage.dataloader_prefix}_batches")
        if limit == 0 or not is_overridden(f"{self.name}_step", trainer.lightning_module, LightningModule):
            self.sizes = []
            return
        assert self.source is not None
        is_due = self.source.is_due(trainer)
        if self.loader is None or not self.within_fit or is_due:
            if is_due:
                self.seen.clear()
            self.loader = self._load()
            self.results.batches = self.batches
        if self.within_fit and not trainer.sanity_checking:
            for loader in self.loader.flattened:
                set_sampler_epoch(loader, trainer.progress.epoch)
        self.loader.limits = self.max_batches

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
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from leyden.data.loading import DataSource
from leyden.data.samplers import set_epoch
from leyden.data.transfer import transfer_function
from leyden.loops.progress import MOVES, Phase
from leyden.loops.single_pass import SinglePass, has_several
from leyden.metrics import Results
from leyden.module import LightningModule
from leyden.utilities.objects import is_overridden
from leyden.utilities.states import RunningStage

if TYPE_CHECKING:
    from leyden.trainer.run import Run


class EvaluationLoop(SinglePass):
    """Validation or test.

    Args:
        run: The run that it is of.
        stage: ``VALIDATING`` or ``TESTING``.
        source: Where the loaders come from; None where there are none.
        within_fit: Whether this is the validation of a fit, which shows no results and keeps autograd usable.
        verbose: Whether the results are shown, outside of a fit.

    Attributes:
        current_batch: Batches of this pass that are done.
        seen: Batches of each loader in all passes since it was loaded; evaluation steps are logged under this number.
    """

    def __init__(
        self,
        run: Run,
        stage: RunningStage,
        source: DataSource | None = None,
        within_fit: bool = False,
        verbose: bool = True,
    ) -> None:
        super().__init__(run, stage, source, within_fit)
        self.verbose = verbose
        self.results: Results = Results(run.trainer)
        self.current_batch = 0
        self.seen: Counter[int] = Counter()
        self._done: Counter[int] = Counter()

    def run(self) -> list[dict[str, Any]]:
        """Evaluate; returns for each loader what was logged for it."""
        trainer, metrics = self.trainer, self._run.metrics
        self.setup_data()
        if not self.max_batches or not self._has_batches:
            return []
        outer = metrics.enter(self.results)
        outputs = self._run_pass()
        metrics.leave(outer)
        if self.within_fit:
            return outputs
        numbers = [{name: value.item() for name, value in output.items()} for output in outputs]
        if self.verbose and trainer.is_global_zero and not trainer.barebones:
            show = trainer.plugin_manager.hook.leyden_show_results
            show(trainer=trainer, stage=self.stage.value, results=numbers)
        return numbers

    def _end_epoch(self, outputs: list[Any]) -> None:
        metrics = self._run.metrics
        if self._run.sanity_checking:
            return
        epoch_metrics = metrics.end_epoch()
        for output in outputs:
            output.update(epoch_metrics)
        metrics.send({name: value for output in reversed(outputs) for name, value in output.items()})
        self.seen.update(self._done)
        if self.within_fit:  # a run that is resumed from a checkpoint of on_validation_end is after it
            progress = self._run.progress
            progress.phase = MOVES[progress.phase][Phase.VALIDATION_END]

    def _run_batches(self, step: Callable[..., Any]) -> list[dict[str, Any]]:
        metrics = self._run.metrics
        assert self.loader is not None
        several = has_several(self.loader)
        transfers = [transfer_function(self._run, i) for i in range(len(self.loader.flattened))]
        batch_start, batch_end = self._hook("batch_start"), self._hook("batch_end")
        outputs: list[dict[str, Any]] = []
        ended, self.current_batch = 0, 0
        self._done.clear()
        for item in self._fetcher():
            batch_idx, dataloader_idx = item.batch_idx, item.dataloader_idx
            if dataloader_idx != ended:
                outputs.extend(self._end_dataloader(i) for i in range(ended, dataloader_idx))
                ended = dataloader_idx
            batch = transfers[dataloader_idx](item.batch)
            metrics.start_batch(batch, dataloader_idx if several else None)
            batch_start(batch, batch_idx, dataloader_idx)
            output = step(batch, batch_idx, dataloader_idx)
            self.current_batch += 1
            batch_end(output, batch, batch_idx, dataloader_idx)
            metrics.end_evaluation_batch(self.seen[dataloader_idx] + batch_idx)
            self._done[dataloader_idx] += 1
        outputs.extend(self._end_dataloader(i) for i in range(ended, len(self.batches)))
        self.results.dataloader_idx = None
        return outputs

    def _end_dataloader(self, i: int) -> dict[str, Any]:
        """What was logged for loader ``i``, of which some processes may have had fewer batches, or none."""
        assert self.loader is not None
        self.results.dataloader_idx = i if has_several(self.loader) else None
        self._run.strategy.agree_on_results(self.results, self._run.module, self.batches[i])
        return self._run.metrics.end_epoch()

    def setup_data(self) -> None:
        """Ask for the loaders: in every run alone; within a fit, once and whenever they are due again."""
        trainer = self.trainer
        limit = getattr(trainer, f"limit_{self.stage.dataloader_prefix}_batches")
        if limit == 0 or not is_overridden(f"{self.name}_step", self._run.module, LightningModule):
            self.sizes = []
            return
        assert self.source is not None
        is_due = self.source.is_due(trainer)
        if self.loader is None or not self.within_fit or is_due:
            if is_due:
                self.seen.clear()
            self.loader = self._load()
            self.results.batches = self.batches
        if self.within_fit and not self._run.sanity_checking:
            for loader in self.loader.flattened:
                set_epoch(loader, self._run.progress.epoch)
        self.loader.limits = self.max_batches

    def state_dict(self) -> dict[str, Any]:
        """What the validation of a fit that is resumed needs."""
        return {"seen": dict(self.seen), "source": self.source.state_dict() if self.source is not None else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        self.seen.update(state["seen"])
        if self.source is not None and state["source"] is not None:
            self.source.load_state_dict(state["source"])

"""Validation, testing and prediction: one pass over loaders without gradients, alone or within a fit.

on_…_model_eval                                   _run_pass
on_…_start, on_…_epoch_start
for each batch of each loader:                    _run_batches of the loop
    transfer to the device
    on_…_batch_start
    …_step
    on_…_batch_end
on_…_epoch_end, on_…_end
on_…_model_train
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from leyden.data.combined import INFINITE, CombinedLoader, length_of
from leyden.data.fetch import Fetcher, transfer_function
from leyden.data.loading import DataSource, load, set_epoch, take_lengths, warn_of_no_batches
from leyden.loops.progress import MOVES, Phase
from leyden.loops.step import argument_count
from leyden.metrics import Results
from leyden.module import LightningModule
from leyden.utilities.objects import is_overridden
from leyden.utilities.states import RunningStage

if TYPE_CHECKING:
    from leyden.trainer.run import Run


class SinglePass:
    """What the three have in common. A loop adds what happens to a batch, and what is returned.

    Args:
        run: The run that it is of.
        stage: ``VALIDATING``, ``TESTING`` or ``PREDICTING``.
        source: Where the loaders come from; None where there are none.
        within_fit: Whether this is the validation of a fit, which shows no results and keeps autograd usable.

    Attributes:
        name: The stage's part of the names of steps and hooks.
        loader: The loaders, combined; None before they are needed.
        results: What was logged in it; None where nothing can be.
        sizes: Batches of each loader, within the limits; empty where there is nothing to do.
        batches: Batches of each loader in each process, within the limits; inf where a loader has no length.
        has_batches: Whether any loader in any process has a batch. Then all processes make the pass.
    """

    results: Results | None = None

    def __init__(self, run: Run, stage: RunningStage, source: DataSource | None, within_fit: bool = False) -> None:
        self._run, self.trainer, self.stage, self.within_fit = run, run.trainer, stage, within_fit
        self.name = "validation" if stage == RunningStage.VALIDATING else stage.dataloader_prefix
        self.source = source
        self.loader: CombinedLoader | None = None
        self.sizes: list[int | float] = []
        self.batches: list[tuple[int | float, ...]] = []
        self.has_batches = False

    @property
    def max_batches(self) -> list[int | float]:
        """Batches that a pass takes from each loader: fewer in a sanity check."""
        if self._run.sanity_checking:
            return [min(self.trainer.num_sanity_val_steps, size) for size in self.sizes]
        return self.sizes

    @property
    def has_several(self) -> bool:
        """Whether a step must be told which loader a batch is of."""
        assert self.loader is not None
        return len(self.loader.flattened) > 1 and self.loader.mode == "sequential"

    def setup_data(self) -> None:
        """Ask for the loaders, and refuse those that the pass can't take."""
        if getattr(self.trainer, f"limit_{self.stage.dataloader_prefix}_batches") == 0:
            return
        assert self.source is not None
        self.loader = load(self.trainer, self.source, self.stage, "sequential")
        if self.has_several and self._argument_count() < 3:
            several = f"There are {len(self.loader.flattened)} loaders"
            raise RuntimeError(f"{several}, so {self.name}_step must take dataloader_idx as its third argument.")
        self._tell_batches(self.loader)
        if self.loader.flattened and not any(map(any, self.batches)):
            warn_of_no_batches(self.source)

    def _tell_batches(self, loader: CombinedLoader) -> None:
        """Tell the other processes how many batches there are here: one without any waits for those of the others."""
        take_lengths(self.trainer, loader, self.stage)
        self.sizes = loader.sizes()
        has_length = [length_of(one) != INFINITE for one in loader.flattened]
        sizes = [size if known else INFINITE for size, known in zip(self.sizes, has_length, strict=True)]
        own = sizes if self.has_several else [loader.total() if all(has_length) else INFINITE]
        told = self.trainer.strategy.all_gather_object((own, any(self.sizes)))
        self.batches = list(zip(*(counts for counts, _ in told), strict=True))
        self.has_batches = any(has_batches for _, has_batches in told)

    def _run_pass(self) -> list[Any]:
        """Take every batch in evaluation mode, put every submodule's mode back in any case, and return the outputs."""
        module, hooks, name = self._run.module, self._run.hooks, f"on_{self.name}"
        step = self._step()
        modes = {part: part.training for part in module.modules()}
        try:
            with torch.inference_mode() if self.trainer.inference_mode and not self.within_fit else torch.no_grad():
                getattr(module, f"{name}_model_eval")()
                getattr(hooks, f"{name}_start")()
                getattr(hooks, f"{name}_epoch_start")()
                start, end = getattr(hooks, f"{name}_batch_start"), getattr(hooks, f"{name}_batch_end")
                outputs = self._run_batches(start, step, end)
                getattr(hooks, f"{name}_epoch_end")()
                self._end_epoch(outputs)
                getattr(hooks, f"{name}_end")()
                if is_overridden(f"{name}_model_train", module, LightningModule):
                    getattr(module, f"{name}_model_train")()
                    modes = {}
        finally:
            for part, training in modes.items():
                part.training = training
        return outputs

    def _run_batches(self, start: Callable[..., Any], step: Callable[..., Any], end: Callable[..., Any]) -> list[Any]:
        """Give every batch to ``start``, ``step`` and ``end``, with its number and its loader's."""
        raise NotImplementedError

    def _end_epoch(self, outputs: list[Any]) -> None:
        """After the last hook that may log."""

    def _batches(self) -> Iterator[tuple[Any, int, int]]:
        """Every batch on the device, its number in its loader, and the loader's."""
        assert self.loader is not None
        transfers = [transfer_function(self._run, i) for i in range(len(self.loader.flattened))]
        fetcher, action = Fetcher(self.loader), f"{self.stage.dataloader_prefix}_dataloader_next"
        fetcher.plan()
        fetcher.start(measure=self._run.timer(f"[{type(self).__name__}].{action}"))
        for batch, batch_idx, dataloader_idx, *_ in fetcher:
            self._end_loaders_before(dataloader_idx)
            yield transfers[dataloader_idx](batch), batch_idx, dataloader_idx

    def _end_loaders_before(self, dataloader_idx: int) -> None:
        """End the loaders before this one, also those without a batch."""

    def _argument_count(self) -> int:
        """How many of (batch, batch_idx, dataloader_idx) the step takes.

        One that takes any number passes them on to another, which need not know of ``dataloader_idx`` where there is
        one loader.
        """
        return argument_count(getattr(self._run.module, f"{self.name}_step"), 3, 3 if self.has_several else 2)

    def _step(self) -> Callable[..., Any]:
        """The step with as many arguments as it takes, in the precision's context and its scope of logging."""
        run, metrics, name = self._run, self._run.metrics, f"{self.name}_step"
        step = run.strategy.step_function(run.module, name)
        step = run.timed(f"[Strategy]{type(run.strategy).__name__}.{name}", step)
        precision, count = run.strategy.precision, self._argument_count()

        def call(*values: Any) -> Any:
            outer, metrics.hook = metrics.hook, name
            try:
                with precision.forward_context():
                    return step(*values[:count])
            finally:
                metrics.hook = outer

        return call


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
        self, run: Run, stage: RunningStage, source: DataSource | None, within_fit: bool = False, verbose: bool = True
    ) -> None:
        super().__init__(run, stage, source, within_fit)
        self.results: Results = Results(run.trainer)
        self.verbose, self.current_batch = verbose, 0
        self.seen: Counter[int] = Counter()
        self._done: Counter[int] = Counter()
        self._outputs: list[dict[str, Any]] = []

    def run(self) -> list[dict[str, Any]]:
        """Evaluate; returns for each loader what was logged for it."""
        trainer, metrics = self.trainer, self._run.metrics
        self.setup_data()
        if not self.has_batches:
            return []
        outer = metrics.enter(self.results)
        outputs = self._run_pass()
        metrics.leave(outer)
        if self.within_fit:
            return outputs
        numbers = [{name: value.item() for name, value in output.items()} for output in outputs]
        if self.verbose and trainer.is_global_zero and not trainer.barebones:
            hook = trainer.plugin_manager.hook
            hook.leyden_show_results(trainer=trainer, stage=self.stage.value, results=numbers)
        return numbers

    def setup_data(self) -> None:
        """Ask for the loaders; within a fit, once and whenever they are due again."""
        assert self.source is not None
        is_due = self.source.is_due(self.trainer)
        if self.loader is None or is_due:
            if is_due:
                self.seen.clear()
            super().setup_data()
        if self.loader is None:
            return
        if self.within_fit:
            for loader in self.loader.flattened:
                set_epoch(loader, self._run.progress.epoch)
            self._tell_batches(self.loader)
        self.results.batches = self.batches
        self.loader.limits = self.max_batches

    def _run_batches(self, start: Callable[..., Any], step: Callable[..., Any], end: Callable[..., Any]) -> list[Any]:
        metrics, has_several = self._run.metrics, self.has_several
        self.current_batch, self._outputs = 0, []
        self._done.clear()
        for batch, batch_idx, dataloader_idx in self._batches():
            metrics.start_batch(batch, dataloader_idx if has_several else None)
            start(batch, batch_idx, dataloader_idx)
            output = step(batch, batch_idx, dataloader_idx)
            self.current_batch += 1
            end(output, batch, batch_idx, dataloader_idx)
            del output, batch  # their memory is free for the next batch
            metrics.end_evaluation_batch(self.seen[dataloader_idx] + batch_idx)
            self._done[dataloader_idx] += 1
        self._end_loaders_before(len(self.batches))
        self.results.dataloader_idx = None
        return self._outputs

    def _end_loaders_before(self, dataloader_idx: int) -> None:
        """Keep what was logged for each loader."""
        for i in range(len(self._outputs), dataloader_idx):
            self.results.dataloader_idx = i if self.has_several else None
            self._outputs.append(self._run.metrics.end_epoch())

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

    def state_dict(self) -> dict[str, Any]:
        """What the validation of a fit that is resumed needs."""
        return {"seen": dict(self.seen), "loaded_in": getattr(self.source, "loaded_in", None)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        self.seen.update(state["seen"])
        if self.source is not None:
            self.source.loaded_in = state["loaded_in"]


class PredictionLoop(SinglePass):
    """Prediction, which collects what ``predict_step`` returns.

    Args:
        run: The run that it is of.
        source: Where the loaders come from; None before the first prediction.
        return_predictions: Whether predictions are collected and returned.

    Attributes:
        predictions: What was predicted so far: a list of batches, or a list of such lists for several loaders.
    """

    def __init__(self, run: Run, source: DataSource | None, return_predictions: bool = True) -> None:
        super().__init__(run, RunningStage.PREDICTING, source)
        self.return_predictions = return_predictions
        self.predictions: list[Any] = []

    def run(self) -> list[Any] | None:
        """Predict; returns the predictions if they are wanted."""
        self.setup_data()
        if not self.has_batches:
            return None
        self._run_pass()
        return self.predictions if self.return_predictions else None

    def setup_data(self) -> None:
        """Ask for the loaders, and refuse batches of several of them at once."""
        super().setup_data()
        if self.loader is not None and (mode := self.loader.mode) != "sequential":
            raise ValueError(f"A CombinedLoader(mode={mode!r}) can't be predicted on; write mode='sequential'.")

    def _run_batches(self, start: Callable[..., Any], step: Callable[..., Any], end: Callable[..., Any]) -> list[Any]:
        assert self.loader is not None
        predicted: list[list[Any]] = [[] for _ in self.loader.flattened]
        self.predictions = predicted[0] if len(predicted) == 1 else predicted
        for batch, batch_idx, dataloader_idx in self._batches():
            start(batch, batch_idx, dataloader_idx)
            output = step(batch, batch_idx, dataloader_idx)
            end(output, batch, batch_idx, dataloader_idx)
            if self.return_predictions:
                predicted[dataloader_idx].append(tree_map_only(Tensor, Tensor.cpu, output))
            del output, batch
        return self.predictions

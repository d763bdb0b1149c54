"""Prediction: one pass over the prediction loaders that collects what ``predict_step`` returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from leyden.data.combined import CombinedLoader
from leyden.data.fetch import Fetcher
from leyden.data.hints import warn_of_shuffling
from leyden.data.loading import DataSource, load
from leyden.data.samplers import RecordingBatchSampler, recording
from leyden.data.transfer import transfer_function
from leyden.hooktable import is_overridden
from leyden.loops.evaluate import argument_count, in_context, require_dataloader_idx, restore_modes
from leyden.module import LightningModule
from leyden.states import RunningStage

if TYPE_CHECKING:
    from leyden.trainer import Trainer


class PredictionLoop:
    """Predicts.

    Attributes:
        loader: The loaders, combined; None before the first run.
        max_batches: Batches of each loader.
        return_predictions: Whether predictions are collected and returned.
        current_batch_indices: Which samples the running batch holds; empty where the loader does not draw indices.
        epoch_batch_indices: The same for every batch of every loader so far.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.source: DataSource | None = None
        self.loader: CombinedLoader | None = None
        self.max_batches: list[int | float] = []
        self.return_predictions = True
        self.current_batch_indices: list[int] = []
        self.epoch_batch_indices: list[list[list[int]]] = []
        self._recorders: list[RecordingBatchSampler | None] = []
        self._predictions: list[list[Any]] = []

    @property
    def predictions(self) -> list[Any]:
        """What was predicted: a list of batches, or a list of such lists for several loaders."""
        return self._predictions[0] if len(self._predictions) == 1 else self._predictions

    def run(self) -> list[Any] | None:
        """Predict; returns the predictions if they are wanted."""
        self.setup_data()
        if not self.max_batches or sum(self.max_batches) == 0:
            return None
        with torch.inference_mode() if self.trainer.inference_mode else torch.no_grad():
            self._predict()
        return self.predictions if self.return_predictions else None

    def setup_data(self) -> None:
        """Ask for the loaders."""
        trainer = self.trainer
        assert self.source is not None
        if trainer.limit_predict_batches == 0:
            self.max_batches = []
            return
        self.loader = load(trainer, self.source, RunningStage.PREDICTING, "sequential")
        if self.loader.mode != "sequential":
            raise ValueError(
                "Trainer.predict goes through loaders one after another, so a CombinedLoader("
                f"mode={self.loader.mode!r}) can't be predicted on; write mode='sequential'."
            )
        require_dataloader_idx(trainer.lightning_module.predict_step, "predict_step", self.loader)
        if not trainer.barebones:
            warn_of_shuffling(self.loader.flattened, self.source)
        pairs = [recording(loader) for loader in self.loader.flattened]
        self.loader.flattened = [loader for loader, _ in pairs]
        self._recorders = [recorder for _, recorder in pairs]
        self.max_batches = self.loader.sizes()

    def _predict(self) -> None:
        module, hooks = self.trainer.lightning_module, self.trainer.hooks
        modes = {part: part.training for part in module.modules()}
        step = self._step()
        module.on_predict_model_eval()
        for hook in (hooks.on_predict_start, hooks.on_predict_epoch_start):
            if hook is not None:
                hook()
        self._run_batches(step)
        for hook in (hooks.on_predict_epoch_end, hooks.on_predict_end):
            if hook is not None:
                hook()
        if is_overridden("on_predict_model_train", module, LightningModule):
            module.on_predict_model_train()
        else:
            restore_modes(modes)

    def _step(self) -> Callable[..., Any]:
        trainer = self.trainer
        assert self.loader is not None
        function = trainer.lightning_module.predict_step
        step = trainer.strategy.step_function(trainer.lightning_module, "predict_step")
        step = trainer.measured(f"[Strategy]{type(trainer.strategy).__name__}.predict_step", step)
        overridden = is_overridden("predict_step", trainer.lightning_module, LightningModule)
        return in_context(trainer, step, argument_count(function, self.loader) if overridden else 1)

    def _run_batches(self, step: Callable[..., Any]) -> None:
        trainer, hooks = self.trainer, self.trainer.hooks
        assert self.loader is not None
        count = len(self.loader.flattened)
        self._predictions = [[] for _ in range(count)]
        self.epoch_batch_indices = [[] for _ in range(count)]
        transfers = [transfer_function(trainer, i) for i in range(count)]
        fetcher = Fetcher(self.loader, measure=trainer.measure("[PredictionLoop].predict_dataloader_next"))
        fetcher.read_ahead(lambda: None)
        for batch, batch_idx, dataloader_idx, _ in fetcher:
            recorder = self._recorders[dataloader_idx]
            self.current_batch_indices = recorder.indices.popleft() if recorder is not None else []
            self.epoch_batch_indices[dataloader_idx].append(self.current_batch_indices)
            batch = transfers[dataloader_idx](batch)
            if hooks.on_predict_batch_start is not None:
                hooks.on_predict_batch_start(batch, batch_idx, dataloader_idx)
            output = step(batch, batch_idx, dataloader_idx)
            if hooks.on_predict_batch_end is not None:
                hooks.on_predict_batch_end(output, batch, batch_idx, dataloader_idx)
            if self.return_predictions:
                self._predictions[dataloader_idx].append(tree_map_only(Tensor, Tensor.cpu, output))

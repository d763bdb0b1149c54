"""Prediction: one pass over the prediction loaders that collects what ``predict_step`` returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from leyden.data.combined import CombinedLoader
from leyden.data.samplers import RecordingBatchSampler, recording
from leyden.data.transfer import transfer_function
from leyden.loops.single_pass import SinglePass
from leyden.utilities.states import RunningStage

if TYPE_CHECKING:
    from leyden.data.loading import DataSource
    from leyden.trainer.run import Run


class PredictionLoop(SinglePass):
    """Predicts.

    Args:
        run: The run that it is of.
        source: Where the loaders come from.
        return_predictions: Whether predictions are collected and returned.

    Attributes:
        current_batch_indices: Which samples the running batch holds; empty where the loader does not draw indices.
        epoch_batch_indices: The same for every batch of every loader so far.
    """

    def __init__(self, run: Run, source: DataSource | None = None, return_predictions: bool = True) -> None:
        super().__init__(run, RunningStage.PREDICTING, source)
        self.return_predictions = return_predictions
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
        if not self.max_batches or not self._has_batches:
            return None
        self._run_pass()
        return self.predictions if self.return_predictions else None

    def setup_data(self) -> None:
        """Ask for the loaders."""
        if self.trainer.limit_predict_batches == 0:
            self.sizes = []
            return
        combined = self._load()
        pairs = [recording(loader) for loader in combined.flattened]
        combined.flattened = [loader for loader, _ in pairs]
        self._recorders = [recorder for _, recorder in pairs]

    def _check(self, loader: CombinedLoader) -> None:
        """Refuse batches of several loaders at once, too."""
        if loader.mode != "sequential":
            raise ValueError(
                f"Trainer.predict goes through loaders one after another, so a CombinedLoader(mode={loader.mode!r}) "
                "can't be predicted on; write mode='sequential'."
            )
        super()._check(loader)

    def _run_batches(self, step: Callable[..., Any]) -> list[Any]:
        assert self.loader is not None
        count = len(self.loader.flattened)
        self._predictions = [[] for _ in range(count)]
        self.epoch_batch_indices = [[] for _ in range(count)]
        transfers = [transfer_function(self._run, i) for i in range(count)]
        batch_start, batch_end = self._hook("batch_start"), self._hook("batch_end")
        for item in self._fetcher():
            batch_idx, dataloader_idx = item.batch_idx, item.dataloader_idx
            recorder = self._recorders[dataloader_idx]
            self.current_batch_indices = recorder.indices.popleft() if recorder is not None else []
            self.epoch_batch_indices[dataloader_idx].append(self.current_batch_indices)
            batch = transfers[dataloader_idx](item.batch)
            batch_start(batch, batch_idx, dataloader_idx)
            output = step(batch, batch_idx, dataloader_idx)
            batch_end(output, batch, batch_idx, dataloader_idx)
            if self.return_predictions:
                self._predictions[dataloader_idx].append(tree_map_only(Tensor, Tensor.cpu, output))
        return self.predictions

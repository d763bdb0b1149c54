"""What can be asked of a Trainer: its settings, where it stands, and what it has come to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from leyden.loops.optimizer import LightningOptimizer
from leyden.module import LightningModule
from leyden.utilities.overriding import is_overridden
from leyden.utilities.states import RunningStage, TrainerFn, TrainerStatus

if TYPE_CHECKING:
    from leyden.callback import Callback
    from leyden.datamodule import LightningDataModule
    from leyden.interfaces.accelerator import Accelerator
    from leyden.interfaces.logger import Logger
    from leyden.interfaces.precision import Precision
    from leyden.interfaces.profiler import Profiler
    from leyden.interfaces.strategy import Strategy
    from leyden.loops.evaluate import EvaluationLoop
    from leyden.loops.fit import FitLoop
    from leyden.loops.optimizers import LRSchedulerConfig
    from leyden.loops.predict import PredictionLoop
    from leyden.loops.progress import Progress
    from leyden.loops.step import BatchStep
    from leyden.metrics import Logging
    from leyden.plugin_system.manager import PluginManager
    from leyden.plugin_system.table import HookTable
    from leyden.utilities.states import TrainerState


class TrainerProperties:
    """The attributes of a Trainer, declared, and those that are worked out from others."""

    # settings, as the arguments of the same names
    num_nodes: int
    fast_dev_run: int | bool
    max_epochs: int | None
    min_epochs: int | None
    max_steps: int
    min_steps: int | None
    max_time: timedelta | None
    limit_train_batches: int | float
    limit_val_batches: int | float
    limit_test_batches: int | float
    limit_predict_batches: int | float
    overfit_batches: int | float
    val_check_interval: Any
    check_val_every_n_epoch: int | None
    num_sanity_val_steps: int | float
    log_every_n_steps: int
    enable_checkpointing: bool | None
    enable_progress_bar: bool | None
    enable_model_summary: bool | None
    accumulate_grad_batches: int
    gradient_clip_val: int | float | None
    gradient_clip_algorithm: str | None
    deterministic: bool | str | None
    benchmark: bool | None
    inference_mode: bool
    use_distributed_sampler: bool
    detect_anomaly: bool
    barebones: bool
    sync_batchnorm: bool
    reload_dataloaders_every_n_epochs: int
    default_root_dir: str
    enable_autolog_hparams: bool

    # parts
    plugin_manager: PluginManager
    accelerator: Accelerator
    strategy: Strategy
    precision_plugin: Precision
    profiler: Profiler
    loggers: list[Logger]
    callbacks: list[Callback]
    parallel_devices: list[torch.device]

    # the run
    state: TrainerState
    progress: Progress
    logging: Logging
    hooks: HookTable
    agreed_log_dir: str | None = None
    step: BatchStep
    fit_loop: FitLoop
    validate_loop: EvaluationLoop
    test_loop: EvaluationLoop
    predict_loop: PredictionLoop
    lr_scheduler_configs: list[LRSchedulerConfig]
    passes: dict[TrainerFn, EvaluationLoop | PredictionLoop]
    datamodule: LightningDataModule | None = None
    ckpt_path: str | None = None
    should_stop: bool = False
    received_sigterm: bool = False
    asked_to_end: str = ""
    ran_elsewhere: bool = False
    val_check_batch: int | float = math.inf
    _module: LightningModule | None = None

    # -- where it stands ----------------------------------------------------------------------------------

    @property
    def current_epoch(self) -> int:
        """Epochs finished; the index of the running one."""
        return self.progress.epoch

    @property
    def global_step(self) -> int:
        """Optimizer steps taken, of all optimizers."""
        return self.progress.optimizer_steps

    @property
    def is_running(self) -> bool:
        """Whether a run is under way."""
        return self.state.status == TrainerStatus.RUNNING

    @property
    def interrupted(self) -> bool:
        """Whether the last run ended with an exception or Ctrl-C."""
        return self.state.status == TrainerStatus.INTERRUPTED

    @property
    def training(self) -> bool:
        """Whether it trains now."""
        return self.state.stage == RunningStage.TRAINING

    @property
    def validating(self) -> bool:
        """Whether it validates now, alone or within a fit."""
        return self.state.stage == RunningStage.VALIDATING

    @property
    def testing(self) -> bool:
        """Whether it tests now."""
        return self.state.stage == RunningStage.TESTING

    @property
    def predicting(self) -> bool:
        """Whether it predicts now."""
        return self.state.stage == RunningStage.PREDICTING

    @property
    def sanity_checking(self) -> bool:
        """Whether it tries a few validation batches before training."""
        return self.state.stage == RunningStage.SANITY_CHECKING

    @property
    def evaluating(self) -> bool:
        """Whether it validates, tests or makes a sanity check."""
        return self.state.stage is not None and self.state.stage.evaluating

    @property
    def is_last_batch(self) -> bool:
        """Whether the running training batch is the last of its epoch."""
        return self.progress.is_last_batch

    # -- processes ----------------------------------------------------------------------------------------

    @property
    def global_rank(self) -> int:
        """This process among all."""
        return self.strategy.global_rank

    @property
    def local_rank(self) -> int:
        """This process among those of its node."""
        return self.strategy.local_rank

    @property
    def node_rank(self) -> int:
        """This node among all."""
        return self.strategy.node_rank

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.strategy.world_size

    @property
    def is_global_zero(self) -> bool:
        """Whether this process speaks for all."""
        return self.strategy.is_global_zero

    @property
    def distributed_sampler_kwargs(self) -> dict[str, int] | None:
        """``num_replicas`` and ``rank`` for a distributed sampler; None where each process sees all the data."""
        return self.strategy.sampler_arguments

    @property
    def num_devices(self) -> int:
        """Devices on this node."""
        return len(self.parallel_devices)

    @property
    def device_ids(self) -> list[int]:
        """The indices of this node's devices."""
        return [i if device.index is None else device.index for i, device in enumerate(self.parallel_devices)]

    # -- parts --------------------------------------------------------------------------------------------

    @property
    def lightning_module(self) -> LightningModule:
        """The module of the last or running run; None before the first, though in a run there always is one."""
        return self._module  # type: ignore[return-value]

    @property
    def model(self) -> LightningModule | None:
        """The module of the last or running run, or None."""
        return self._module

    @property
    def precision(self) -> str:
        """The number format, e.g. "32-true"."""
        return self.precision_plugin.precision

    @property
    def scaler(self) -> Any:
        """The gradient scaler of the precision, or None."""
        return getattr(self.precision_plugin, "scaler", None)

    @property
    def optimizers(self) -> list[Any]:
        """The optimizers of the running fit; a hook may assign others, with which it goes on."""
        return self._optimizers

    @optimizers.setter
    def optimizers(self, optimizers: Iterable[Any]) -> None:
        self._optimizers = [o.optimizer if type(o) is LightningOptimizer else o for o in optimizers]
        if "step" in self.__dict__:
            self.step.connect(self._optimizers)

    @property
    def wrapped_optimizers(self) -> list[Any]:
        """The optimizers as steps see them: their ``step`` is counted and calls the hooks."""
        return self.step.wrapped

    @property
    def logger(self) -> Logger | None:
        """The first logger, or None."""
        return self.loggers[0] if self.loggers else None

    @property
    def log_dir(self) -> str | None:
        """The first logger's directory of this run, else ``default_root_dir``; within a run that of rank 0."""
        if self.is_running and self.agreed_log_dir is not None:
            return self.agreed_log_dir
        directory = self.default_root_dir
        if self.loggers:
            directory = getattr(self.loggers[0], "log_dir", None) or getattr(self.loggers[0], "save_dir", None) or ""
        return directory or None

    def _with_role(self, role: str) -> list[Any]:
        return [callback for callback in self.callbacks if callback.role == role]

    @property
    def checkpoint_callbacks(self) -> list[Any]:
        """The callbacks that save checkpoints."""
        return self._with_role("checkpoint")

    @property
    def checkpoint_callback(self) -> Any:
        """The first of them, or None."""
        return next(iter(self.checkpoint_callbacks), None)

    @property
    def early_stopping_callbacks(self) -> list[Any]:
        """The callbacks that stop early."""
        return self._with_role("early_stopping")

    @property
    def early_stopping_callback(self) -> Any:
        """The first of them, or None."""
        return next(iter(self.early_stopping_callbacks), None)

    @property
    def progress_bar_callback(self) -> Any:
        """The progress bar, or None."""
        return next(iter(self._with_role("progress_bar")), None)

    # -- data ---------------------------------------------------------------------------------------------

    @property
    def enable_validation(self) -> bool:
        """Whether a fit validates: there is a step, a loader, and a limit above 0."""
        loop = self.fit_loop.validation
        steps = is_overridden("validation_step", self._module, LightningModule)
        return loop.source is not None and steps and self.limit_val_batches > 0

    @property
    def train_dataloader(self) -> Any:
        """The training loaders as the user gave them; None before a fit."""
        return self.fit_loop.loader.iterables if self.fit_loop.loader is not None else None

    @property
    def val_dataloaders(self) -> Any:
        """The validation loaders as the user gave them; None before they are needed."""
        loop = self._validation_loop()
        return loop.loader.iterables if loop.loader is not None else None

    @property
    def test_dataloaders(self) -> Any:
        """The test loaders as the user gave them; None before they are needed."""
        return self.test_loop.loader.iterables if self.test_loop.loader is not None else None

    @property
    def predict_dataloaders(self) -> Any:
        """The prediction loaders as the user gave them; None before they are needed."""
        return self.predict_loop.loader.iterables if self.predict_loop.loader is not None else None

    @property
    def num_training_batches(self) -> int | float:
        """Training batches in an epoch; infinite where that is not known."""
        return self.fit_loop.max_batches

    @property
    def num_val_batches(self) -> list[int | float]:
        """Validation batches of each loader."""
        return self._validation_loop().max_batches

    def _validation_loop(self) -> EvaluationLoop:
        """That of ``validate`` where this was called last, else that of the fit."""
        return self.validate_loop if self.state.fn == TrainerFn.VALIDATING else self.fit_loop.validation

    @property
    def num_sanity_val_batches(self) -> list[int | float]:
        """Validation batches of each loader in the sanity check."""
        return [min(self.num_sanity_val_steps, count) for count in self.fit_loop.validation.max_batches]

    @property
    def num_test_batches(self) -> list[int | float]:
        """Test batches of each loader."""
        return self.test_loop.max_batches

    @property
    def num_predict_batches(self) -> list[int | float]:
        """Prediction batches of each loader."""
        return self.predict_loop.max_batches

    @property
    def estimated_stepping_batches(self) -> int | float:
        """Optimizer steps that a fit will take, from its loaders, limits and accumulation; for schedulers.

        Infinite where neither the epochs nor the steps are limited.
        """
        if self.max_epochs == -1:
            return math.inf if self.max_steps == -1 else self.max_steps
        if self.fit_loop.loader is None:
            self.fit_loop.setup_data()
        batches = self.fit_loop.max_batches
        if batches == math.inf or self.max_epochs is None:
            return math.inf if self.max_steps == -1 else self.max_steps
        steps = math.ceil(batches / self.accumulate_grad_batches) * max(self.max_epochs, 1)
        return min(self.max_steps, steps) if self.max_steps != -1 else steps

    # -- what it has come to ------------------------------------------------------------------------------

    @property
    def callback_metrics(self) -> dict[str, Any]:
        """Every logged metric by name, as tensors: this step's within an epoch, the epoch's after it."""
        return self.logging.callback_metrics

    @property
    def logged_metrics(self) -> dict[str, Any]:
        """The metrics logged with ``logger=True``, as tensors."""
        return self.logging.logged_metrics

    @property
    def progress_bar_metrics(self) -> dict[str, float]:
        """The metrics logged with ``prog_bar=True``, as numbers; reading them waits for the device."""
        return self.logging.progress_bar_metrics

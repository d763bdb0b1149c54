"""What can be asked of a Trainer: settings, parts, and what it forwards to its run, its loops and its strategy."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch

from leyden.utilities.states import RunningStage, TrainerFn

if TYPE_CHECKING:
    from leyden.callback import Callback
    from leyden.datamodule import LightningDataModule
    from leyden.interfaces.accelerator import Accelerator
    from leyden.interfaces.logger import Logger
    from leyden.interfaces.precision import Precision
    from leyden.interfaces.profiler import Profiler
    from leyden.interfaces.strategy import Strategy
    from leyden.loops.evaluate import EvaluationLoop, PredictionLoop
    from leyden.loops.fit import FitLoop
    from leyden.loops.optimizers import LRSchedulerConfig
    from leyden.loops.progress import Progress
    from leyden.module import LightningModule
    from leyden.plugin_system.manager import PluginManager
    from leyden.plugin_system.table import HookTable
    from leyden.trainer.run import Run
    from leyden.utilities.states import TrainerState


def _forward(path: str, doc: str, settable: bool = False) -> Any:
    """A property that is an attribute of another object.

    Args:
        path: Where it is, from the Trainer: "run.progress.epoch".
        doc: What it is.
        settable: Whether it may be assigned.
    """
    owner, _, name = path.rpartition(".")

    def set_it(trainer: Any, value: Any) -> None:
        setattr(attrgetter(owner)(trainer), name, value)

    return property(attrgetter(path), set_it if settable else None, doc=doc)


def _loop(fn: TrainerFn, doc: str) -> Any:
    """A property: the last loop of a function."""
    return property(lambda trainer: trainer.run.loops[fn], doc=doc)


def _in_stage(stage: RunningStage, doc: str) -> Any:
    """A property: whether a stage runs now."""
    return property(lambda trainer: trainer.state.stage is stage, doc=doc)


def _loaders(find: Callable[[Any], Any], doc: str) -> Any:
    """A property: a loop's loaders as the user gave them; None before they are needed."""

    def loaders(trainer: Any) -> Any:
        loader = find(trainer).loader
        return loader.iterables if loader is not None else None

    return property(loaders, doc=doc)


def _validation_loop(trainer: Any) -> EvaluationLoop:
    """That of ``validate`` where this was called last, else that of the fit."""
    loop: EvaluationLoop
    loop = trainer.validate_loop if trainer.state.fn is TrainerFn.VALIDATING else trainer.fit_loop.validation
    return loop


class TrainerProperties:
    """The attributes of a Trainer, declared, and those that are other objects' or worked out from them."""

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
    run: Run

    # -- the run ------------------------------------------------------------------------------------------

    state: TrainerState = _forward("run.state", "What was called, which stage runs, and how far it has come.")
    progress: Progress = _forward("run.progress", "The counters of the last or running fit.")
    hooks: HookTable = _forward("run.hooks", "What is called at each hook of the last or running run.")
    model: LightningModule | None = _forward("run._module", "The module of the last or running run, or None.")
    lightning_module: LightningModule = _forward(
        "run._module", "The module of the last or running run; None before the first, though a run always has one."
    )
    datamodule: LightningDataModule | None = _forward("run.datamodule", "The run's data module, or None.")
    ckpt_path: str | None = _forward("run.ckpt_path", "The checkpoint that the run loads, or None.")
    should_stop: bool = _forward("run.should_stop", "Whether the fit is to stop; anything may set it.", settable=True)
    asked_to_end: str = _forward(
        "run.asked_to_end",
        'Why the fit is to end at the next step boundary, or ""; anything may set it.',
        settable=True,
    )
    received_sigterm: bool = _forward("run.received_sigterm", "Whether the run was sent SIGTERM.", settable=True)
    optimizers: list[Any] = _forward(
        "run.optimizers", "The optimizers of the fit; a hook may assign others, with which it goes on.", settable=True
    )
    lr_scheduler_configs: list[LRSchedulerConfig] = _forward(
        "run.lr_scheduler_configs", "The schedulers of the fit, and when each steps."
    )
    current_epoch: int = _forward("run.progress.epoch", "Epochs finished; the index of the running one.")
    global_step: int = _forward("run.progress.optimizer_steps", "Optimizer steps taken, of all optimizers.")
    is_last_batch: bool = _forward(
        "run.progress.is_last_batch", "Whether the running training batch is the last of its epoch."
    )
    is_running: bool = _forward("run.is_running", "Whether a run is under way.")
    interrupted: bool = _forward("state.interrupted", "Whether the last run ended with an exception or Ctrl-C.")
    training: bool = _in_stage(RunningStage.TRAINING, "Whether it trains now.")
    validating: bool = _in_stage(RunningStage.VALIDATING, "Whether it validates now, alone or within a fit.")
    testing: bool = _in_stage(RunningStage.TESTING, "Whether it tests now.")
    predicting: bool = _in_stage(RunningStage.PREDICTING, "Whether it predicts now.")
    sanity_checking: bool = _forward(
        "run.sanity_checking", "Whether it tries a few validation batches before training."
    )
    callback_metrics: dict[str, Any] = _forward(
        "run.metrics.callback_metrics", "Every logged metric by name, as tensors: this step's, or the last epoch's."
    )
    logged_metrics: dict[str, Any] = _forward(
        "run.metrics.logged_metrics", "The metrics logged with ``logger=True``, as tensors."
    )
    progress_bar_metrics: dict[str, float] = _forward(
        "run.metrics.progress_bar_metrics",
        "The metrics logged with ``prog_bar=True``, as numbers; reading them waits for the device.",
    )

    @property
    def evaluating(self) -> bool:
        """Whether it validates, tests or makes a sanity check."""
        return self.state.stage is not None and self.state.stage.evaluating

    # -- processes and parts ------------------------------------------------------------------------------

    global_rank: int = _forward("strategy.global_rank", "This process among all.")
    local_rank: int = _forward("strategy.local_rank", "This process among those of its node.")
    node_rank: int = _forward("strategy.node_rank", "This node among all.")
    world_size: int = _forward("strategy.world_size", "Processes in all.")
    is_global_zero: bool = _forward("strategy.is_global_zero", "Whether this process speaks for all.")
    distributed_sampler_kwargs: dict[str, int] | None = _forward(
        "strategy.sampler_arguments",
        "``num_replicas`` and ``rank`` for a distributed sampler; None where each process sees all the data.",
    )
    precision: str = _forward("precision_plugin.precision", 'The number format, e.g. "32-true".')

    @property
    def num_devices(self) -> int:
        """Devices on this node."""
        return len(self.parallel_devices)

    @property
    def device_ids(self) -> list[int]:
        """The indices of this node's devices."""
        return [i if device.index is None else device.index for i, device in enumerate(self.parallel_devices)]

    @property
    def scaler(self) -> Any:
        """The gradient scaler of the precision, or None."""
        return getattr(self.precision_plugin, "scaler", None)

    @property
    def logger(self) -> Logger | None:
        """The first logger, or None."""
        return next(iter(self.loggers), None)

    @property
    def log_dir(self) -> str | None:
        """The first logger's directory of this run, else ``default_root_dir``; within a run that of rank 0."""
        if self.is_running and self.run.log_dir is not None:
            return self.run.log_dir
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

    # -- loops and data -----------------------------------------------------------------------------------

    fit_loop: FitLoop = _loop(TrainerFn.FITTING, "The loop of the last or running fit.")
    validate_loop: EvaluationLoop = _loop(TrainerFn.VALIDATING, "The loop of the last or running ``validate``.")
    test_loop: EvaluationLoop = _loop(TrainerFn.TESTING, "The loop of the last or running ``test``.")
    predict_loop: PredictionLoop = _loop(TrainerFn.PREDICTING, "The loop of the last or running ``predict``.")
    enable_validation: bool = _forward(
        "fit_loop.validates", "Whether a fit validates: there is a step, a loader, and a limit above 0."
    )
    train_dataloader: Any = _loaders(attrgetter("fit_loop"), "The training loaders as they were given, or None.")
    val_dataloaders: Any = _loaders(_validation_loop, "The validation loaders as they were given, or None.")
    test_dataloaders: Any = _loaders(attrgetter("test_loop"), "The test loaders as they were given, or None.")
    predict_dataloaders: Any = _loaders(attrgetter("predict_loop"), "The prediction loaders as given, or None.")
    num_training_batches: int | float = _forward(
        "fit_loop.max_batches", "Training batches in an epoch; infinite where that is not known."
    )
    val_check_batch: int | float = _forward(
        "fit_loop.schedule.every", "Training batches between validations; infinite for the end of the epoch only."
    )
    num_test_batches: list[int | float] = _forward("test_loop.max_batches", "Test batches of each loader.")
    num_predict_batches: list[int | float] = _forward("predict_loop.max_batches", "Prediction batches of each loader.")

    @property
    def num_val_batches(self) -> list[int | float]:
        """Validation batches of each loader."""
        return _validation_loop(self).max_batches

    @property
    def num_sanity_val_batches(self) -> list[int | float]:
        """Validation batches of each loader in the sanity check."""
        return [min(self.num_sanity_val_steps, count) for count in self.fit_loop.validation.max_batches]

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

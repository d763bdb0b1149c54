"""What can be asked of a Trainer: settings, parts, and what it forwards to its run, its loops and its strategy."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch

from leyden.trainer.arguments import Settings
from leyden.utilities.states import RunningStage, TrainerFn

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
    from leyden.module import LightningModule
    from leyden.plugin_system.manager import PluginManager
    from leyden.plugin_system.table import HookTable
    from leyden.trainer.run import Run
    from leyden.utilities.states import TrainerState


def forward(path: str, doc: str, settable: bool = False) -> Any:
    """A property that is an attribute of another object.

    Args:
        path: Where it is, from the object that has the property: "run.progress.epoch".
        doc: What it is.
        settable: Whether it may be assigned.
    """
    owner, _, name = path.rpartition(".")

    def set_it(this: Any, value: Any) -> None:
        setattr(attrgetter(owner)(this), name, value)

    return property(attrgetter(path), set_it if settable else None, doc=doc)


def is_at(path: str, value: Any, doc: str) -> Any:
    """A property: whether an attribute of another object is ``value``."""
    find = attrgetter(path)
    return property(lambda this: find(this) is value, doc=doc)


def _loop(fn: TrainerFn, doc: str) -> Any:
    """A property: the last loop of a function."""
    return property(lambda trainer: trainer.run.loops[fn], doc=doc)


def _loaders(loop: str, doc: str) -> Any:
    """A property: a loop's loaders as the user gave them; None before they are needed."""
    find = attrgetter(f"{loop}.loader")
    return property(lambda trainer: getattr(find(trainer), "iterables", None), doc=doc)


def _with_role(role: str, doc: str) -> Any:
    """A property: the callbacks of a role."""
    return property(lambda trainer: [callback for callback in trainer.callbacks if callback.role == role], doc=doc)


def _first(several: str, doc: str) -> Any:
    """A property: the first of another property's several, or None."""
    find = attrgetter(several)
    return property(lambda trainer: next(iter(find(trainer)), None), doc=doc)


class TrainerProperties(Settings):
    """The attributes of a Trainer: its settings, its parts, and what is other objects' or worked out from them."""

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

    state: TrainerState = forward("run.state", "What was called, which stage runs, and how far it has come.")
    progress: Progress = forward("run.progress", "The counters of the last or running fit.")
    hooks: HookTable = forward("run.hooks", "What is called at each hook of the last or running run.")
    model: LightningModule | None = forward("run.module", "The module of the last or running run, or None.")
    lightning_module: LightningModule = forward("run.module", "The same; None before the first run.")
    datamodule: LightningDataModule | None = forward("run.datamodule", "The run's data module, or None.")
    ckpt_path: str | None = forward("run.ckpt_path", "The checkpoint that the run loads, or None.")
    should_stop: bool = forward("run.should_stop", "Whether the fit is to stop; anything may set it.", settable=True)
    asked_to_end: str = forward("run.asked_to_end", 'Why the fit is to end after this step, or "".', settable=True)
    received_sigterm: bool = forward("run.received_sigterm", "Whether the run was sent SIGTERM.", settable=True)
    optimizers: list[Any] = forward("run.optimizers", "The fit's optimizers; a hook may assign others.", settable=True)
    lr_scheduler_configs: list[LRSchedulerConfig] = forward("run.lr_scheduler_configs", "When each scheduler steps.")
    current_epoch: int = forward("run.progress.epoch", "Epochs finished; the index of the running one.")
    global_step: int = forward("run.progress.optimizer_steps", "Optimizer steps taken, of all optimizers.")
    is_last_batch: bool = forward("run.progress.is_last_batch", "Whether this training batch is the epoch's last.")
    is_running: bool = forward("run.is_running", "Whether a run is under way.")
    interrupted: bool = forward("state.interrupted", "Whether the last run ended with an exception or Ctrl-C.")
    training: bool = is_at("state.stage", RunningStage.TRAINING, "Whether it trains now.")
    validating: bool = is_at("state.stage", RunningStage.VALIDATING, "Whether it validates now, alone or within a fit.")
    testing: bool = is_at("state.stage", RunningStage.TESTING, "Whether it tests now.")
    predicting: bool = is_at("state.stage", RunningStage.PREDICTING, "Whether it predicts now.")
    sanity_checking: bool = forward("run.sanity_checking", "Whether it tries a few validation batches before training.")
    callback_metrics: dict[str, Any] = forward("run.metrics.callback_metrics", "All logged, by name, as tensors.")
    logged_metrics: dict[str, Any] = forward("run.metrics.logged_metrics", "Those logged with ``logger=True``.")
    progress_bar_metrics: dict[str, float] = forward("run.metrics.progress_bar_metrics", "The bar's, as numbers.")

    @property
    def evaluating(self) -> bool:
        """Whether it validates, tests or makes a sanity check."""
        return self.state.stage is not None and self.state.stage.evaluating

    # -- processes and parts ------------------------------------------------------------------------------

    global_rank: int = forward("strategy.global_rank", "This process among all.")
    local_rank: int = forward("strategy.local_rank", "This process among those of its node.")
    node_rank: int = forward("strategy.node_rank", "This node among all.")
    world_size: int = forward("strategy.world_size", "Processes in all.")
    is_global_zero: bool = forward("strategy.is_global_zero", "Whether this process speaks for all.")
    distributed_sampler_kwargs: dict[str, int] | None = forward(
        "strategy.sampler_arguments", "For a distributed sampler; None where each process sees all the data."
    )
    logger: Logger | None = _first("loggers", "The first logger, or None.")
    precision: str = forward("precision_plugin.precision", 'The number format, e.g. "32-true".')

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
    def log_dir(self) -> str | None:
        """The first logger's directory of this run, else ``default_root_dir``; within a run that of rank 0."""
        if self.is_running and self.run.log_dir is not None:
            return self.run.log_dir
        return self.default_root_dir if self.logger is None else self.logger.log_dir or self.logger.save_dir

    checkpoint_callbacks: list[Any] = _with_role("checkpoint", "The callbacks that save checkpoints.")
    checkpoint_callback: Any = _first("checkpoint_callbacks", "The first that saves checkpoints, or None.")
    early_stopping_callbacks: list[Any] = _with_role("early_stopping", "The callbacks that stop early.")
    early_stopping_callback: Any = _first("early_stopping_callbacks", "The first that stops early, or None.")
    _progress_bars: list[Any] = _with_role("progress_bar", "The progress bar; there is one at most.")
    progress_bar_callback: Any = _first("_progress_bars", "The progress bar, or None.")

    # -- loops and data -----------------------------------------------------------------------------------

    fit_loop: FitLoop = _loop(TrainerFn.FITTING, "The loop of the last or running fit.")
    validate_loop: EvaluationLoop = _loop(TrainerFn.VALIDATING, "The loop of the last or running ``validate``.")
    test_loop: EvaluationLoop = _loop(TrainerFn.TESTING, "The loop of the last or running ``test``.")
    predict_loop: PredictionLoop = _loop(TrainerFn.PREDICTING, "The loop of the last or running ``predict``.")

    @property
    def _validation(self) -> Any:
        """The loop of ``validate`` where this was called last, else that of the fit."""
        return self.validate_loop if self.state.fn is TrainerFn.VALIDATING else self.fit_loop.validation

    enable_validation: bool = forward("fit_loop.validates", "Whether a fit has a step and a loader to validate with.")
    train_dataloader: Any = _loaders("fit_loop", "The training loaders as they were given, or None.")
    val_dataloaders: Any = _loaders("_validation", "The validation loaders as they were given, or None.")
    test_dataloaders: Any = _loaders("test_loop", "The test loaders as they were given, or None.")
    predict_dataloaders: Any = _loaders("predict_loop", "The prediction loaders as they were given, or None.")
    num_training_batches: int | float = forward("fit_loop.max_batches", "Batches in an epoch; inf where not known.")
    val_check_batch: int | float = forward("fit_loop.schedule.every", "Batches between validations; inf: epoch's end.")
    num_val_batches: list[int | float] = forward("_validation.max_batches", "Validation batches of each loader.")
    num_test_batches: list[int | float] = forward("test_loop.max_batches", "Test batches of each loader.")
    num_predict_batches: list[int | float] = forward("predict_loop.max_batches", "Prediction batches of each loader.")

    @property
    def num_sanity_val_batches(self) -> list[int | float]:
        """Validation batches of each loader in the sanity check."""
        return [min(self.num_sanity_val_steps, count) for count in self.fit_loop.validation.max_batches]

    @property
    def estimated_stepping_batches(self) -> int | float:
        """Optimizer steps that a fit will take, from its loaders, limits and accumulation; for schedulers.

        Infinite where neither the epochs nor the steps are limited.
        """
        limit = math.inf if self.max_steps == -1 else self.max_steps
        if self.max_epochs is None or self.max_epochs == -1:
            return limit
        if self.fit_loop.loader is None:
            self.fit_loop.setup_data()
        batches = self.fit_loop.max_batches
        if batches == math.inf:
            return limit
        return min(limit, math.ceil(batches / self.accumulate_grad_batches) * max(self.max_epochs, 1))

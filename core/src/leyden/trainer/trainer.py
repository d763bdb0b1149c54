"""The Trainer: arguments in, a resolved run out.

A run is read downwards:

``fit`` → ``_run`` (check what was given) → ``run.py`` (set up, run the loop, tear down) →
``loops/fit.py`` (epochs, batches) → ``loops/step.py`` (one batch).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any

import leyden.trainer.parts as parts
from leyden.callback import Callback
from leyden.checkpoint import contents
from leyden.datamodule import LightningDataModule
from leyden.interfaces.accelerator import Accelerator
from leyden.interfaces.logger import Logger
from leyden.interfaces.profiler import Profiler
from leyden.interfaces.strategy import Strategy
from leyden.loops.evaluate import EvaluationLoop, PredictionLoop
from leyden.loops.fit import FitLoop
from leyden.loops.optimizers import LRSchedulerConfig
from leyden.loops.progress import Progress
from leyden.module import LightningModule
from leyden.plugin_system.table import HookTable, implementations, note_plugin
from leyden.trainer.arguments import Settings, check_arguments
from leyden.trainer.checks import check_call
from leyden.trainer.run import Run
from leyden.utilities import rank_zero_warn
from leyden.utilities.objects import forward, is_at
from leyden.utilities.states import RunningStage, TrainerFn, TrainerState
from leyden.utilities.warnings import PossibleUserWarning


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


class Trainer(Settings):
    """Trains, validates, tests and predicts with a LightningModule.

    Args:
        accelerator: "cpu", "cuda", "mps" or any installed one, "gpu" for whichever GPU there is, "auto" for the
            best that is available, or an instance.
        strategy: How several devices work together, by name or as an instance; "auto" chooses.
        devices: How many devices (int), which ones (list, "0, 1"), -1 for all, or "auto".
        num_nodes: Machines.
        precision: "32-true" or any installed one, e.g. "bf16-mixed"; 32, 16 and 64 mean their usual modes.
        logger: True for the default, False for none, a name, an instance, or a list.
        callbacks: One or several.
        fast_dev_run: Try every loop with one batch, or this many; nothing is logged or saved.
        max_epochs: Epochs to train, -1 for no limit; 1000 if no limit is given at all.
        min_epochs: Epochs before which nothing may stop the training but ``max_steps`` and ``max_time``.
        max_steps: Optimizer steps to train, -1 for no limit.
        min_steps: Optimizer steps before which nothing may stop the training but the maxima.
        max_time: Stop after this time: "DD:HH:MM:SS", a timedelta or a dict of its arguments.
        limit_train_batches: Batches per epoch: a number (int), or a fraction of the loader (float).
        limit_val_batches: The same for validation; 0 turns it off.
        limit_test_batches: The same for testing.
        limit_predict_batches: The same for prediction.
        overfit_batches: Train and validate on these few batches, unshuffled.
        val_check_interval: Validate every so many batches (int), so much of an epoch (float), or so much time.
        check_val_every_n_epoch: Epochs between validations; None counts ``val_check_interval`` across epochs.
        num_sanity_val_steps: Validation batches to try before training; -1 for all.
        log_every_n_steps: Steps between loggings of step values.
        enable_checkpointing: Whether there is a default checkpoint callback.
        enable_progress_bar: Whether there is a progress bar.
        enable_model_summary: Whether the model is summed up before a fit.
        accumulate_grad_batches: Batches per optimizer step, which is by the mean of their losses. The last step of an
            epoch has those that are left.
        gradient_clip_val: Bound of the gradients; None does not clip.
        gradient_clip_algorithm: "norm" (of all gradients, the default) or "value" (of each element).
        deterministic: Use deterministic algorithms; "warn" only warns where there is none.
        benchmark: Let the device time its algorithms and take the fastest.
        inference_mode: Evaluate and predict in ``torch.inference_mode`` (else ``no_grad``).
        use_distributed_sampler: Put distributed samplers into loaders where the strategy needs them.
        profiler: "simple" or any installed one, or an instance.
        detect_anomaly: Have autograd look for NaN and say which forward operation made it; slow.
        barebones: Turn off everything that costs time in the loop, to measure the rest.
        plugins: Component instances (precision, checkpoint IO), pluggy plugins, or names.
        sync_batchnorm: Let batch normalisation see the batches of all processes.
        reload_dataloaders_every_n_epochs: Ask for new loaders every so many epochs; 0 asks once.
        default_root_dir: Where logs and checkpoints go; the working directory by default.
        enable_autolog_hparams: Whether loggers are given the hyperparameters at the start of a run.

    Raises:
        MisconfigurationException: An argument, or a combination, can't work.
    """

    def __init__(
        self,
        *,
        accelerator: str | Accelerator = "auto",
        strategy: str | Strategy = "auto",
        devices: list[int] | str | int = "auto",
        num_nodes: int = 1,
        precision: str | int | None = None,
        logger: Logger | Iterable[Logger] | bool | str | None = None,
        callbacks: list[Callback] | Callback | None = None,
        fast_dev_run: int | bool = False,
        max_epochs: int | None = None,
        min_epochs: int | None = None,
        max_steps: int = -1,
        min_steps: int | None = None,
        max_time: str | timedelta | dict[str, int] | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | str | timedelta | dict[str, int] | None = None,
        check_val_every_n_epoch: int | None = 1,
        num_sanity_val_steps: int | None = None,
        log_every_n_steps: int | None = None,
        enable_checkpointing: bool | None = None,
        enable_progress_bar: bool | None = None,
        enable_model_summary: bool | None = None,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
        deterministic: bool | str | None = None,
        benchmark: bool | None = None,
        inference_mode: bool = True,
        use_distributed_sampler: bool = True,
        profiler: Profiler | str | None = None,
        detect_anomaly: bool = False,
        barebones: bool = False,
        plugins: Any = None,
        sync_batchnorm: bool = False,
        reload_dataloaders_every_n_epochs: int = 0,
        default_root_dir: str | Path | None = None,
        enable_autolog_hparams: bool = True,
    ) -> None:
        settings, chosen = check_arguments({name: value for name, value in locals().items() if name != "self"})
        vars(self).update(settings)
        self.run = Run(self)  # an idle one
        self.plugin_manager, instances = parts.sort_plugins(chosen["plugins"])
        try:
            self._build_parts(chosen, instances)
            self.plugin_manager.hook.leyden_configure(trainer=self)
        except Exception as error:
            note_plugin(error, implementations(self.plugin_manager))
            raise

    def _build_parts(self, chosen: dict[str, Any], instances: dict[type, Any]) -> None:
        """Look up and make everything that has a name; ``instances`` are the components among the plugins."""
        self.accelerator = parts.choose_accelerator(chosen["accelerator"], self.plugin_manager)
        self.parallel_devices = parts.choose_devices(chosen["devices"], self.accelerator)
        self.strategy = parts.choose_strategy(chosen["strategy"], chosen["precision"], instances, self)
        self.precision_plugin = self.strategy.precision
        self.profiler = parts.choose_profiler(chosen["profiler"], self.plugin_manager)
        self.loggers = parts.choose_loggers(chosen["logger"], self)
        self.callbacks = parts.choose_callbacks(chosen["callbacks"], self)

    # -- the four things that it does ---------------------------------------------------------------------

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train.

        Args:
            model: What to train.
            train_dataloaders: A loader, a collection of them, or a LightningDataModule.
            val_dataloaders: A loader or a list of them.
            datamodule: Where the loaders come from instead.
            ckpt_path: A checkpoint to resume from: a path or URL, "best", "last", or "hpc".
            weights_only: False lets the checkpoint hold objects, and so run code; only for trusted files.
        """
        loaders = {"train": train_dataloaders, "val": val_dataloaders}
        self._run(TrainerFn.FITTING, model, loaders, datamodule, ckpt_path, weights_only=weights_only)

    def validate(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> list[dict[str, float]]:
        """One pass over the validation data.

        Args:
            model: What to validate; by default the module of the last run, with its best weights.
            dataloaders: A loader or a list of them, or a LightningDataModule.
            ckpt_path: Whose weights: a path or URL, "best", "last" or "hpc".
            verbose: Whether to print the results.
            datamodule: Where the loaders come from instead.
            weights_only: As in :meth:`fit`.

        Returns:
            For each loader what was logged for it, by name.
        """
        fn, loaders = TrainerFn.VALIDATING, {"val": dataloaders}
        options = {"weights_only": weights_only, "verbose": verbose}
        results: list[dict[str, float]] = self._run(fn, model, loaders, datamodule, ckpt_path, **options)
        return results

    def test(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> list[dict[str, float]]:
        """One pass over the test data; the arguments are those of :meth:`validate`."""
        fn, loaders = TrainerFn.TESTING, {"test": dataloaders}
        options = {"weights_only": weights_only, "verbose": verbose}
        results: list[dict[str, float]] = self._run(fn, model, loaders, datamodule, ckpt_path, **options)
        return results

    def predict(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        return_predictions: bool | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> list[Any] | None:
        """One pass over the prediction data.

        Args:
            model: What predicts; by default the module of the last run, with its best weights.
            dataloaders: A loader or a list of them, or a LightningDataModule.
            datamodule: Where the loaders come from instead.
            return_predictions: Whether to collect and return the predictions, on the host; yes by default.
            ckpt_path: As in :meth:`validate`.
            weights_only: As in :meth:`fit`.

        Returns:
            What ``predict_step`` returned for each batch; a list of such lists for several loaders.
        """
        loaders = {"predict": dataloaders}
        options = {"weights_only": weights_only, "return_predictions": return_predictions is not False}
        results: list[Any] | None = self._run(TrainerFn.PREDICTING, model, loaders, datamodule, ckpt_path, **options)
        return results

    # -- a run --------------------------------------------------------------------------------------------

    def _run(self, fn: TrainerFn, *given: Any, **options: Any) -> Any:
        """Check what was given, and run it in every process; what is refused leaves everything as it was."""
        run = Run(self, fn, *check_call(self, fn, *given), **options)
        if run.is_fit:
            self._limit_epochs()
        self.run = run
        run.attach()
        launcher = self.strategy.launcher
        return run.execute() if launcher is None else launcher.launch(run.execute)

    def _limit_epochs(self) -> None:
        if self.max_epochs is None:
            self.max_epochs = -1
            if self.max_steps == -1 and self.max_time is None:
                self.max_epochs = 1000
                rank_zero_warn("No limit was given: max_epochs is 1000; -1 means no limit.", PossibleUserWarning)
        if self.min_epochs is None and self.min_steps is not None:
            self.min_epochs = 1

    def wants(self, role: str) -> bool:
        """Whether a default callback with this role should be added: it is enabled and no callback has it."""
        enabled = getattr(self, parts.ROLES[role]) is not (None if role == "timer" else False)
        return enabled and not any(callback.role == role for callback in self.callbacks)

    # -- for the user -------------------------------------------------------------------------------------

    def init_module(self, empty_init: bool | None = None) -> AbstractContextManager[None]:
        """A block in which a module is built on its device and in its format right away.

        Args:
            empty_init: True leaves parameters unfilled; for a large model whose weights come from a checkpoint.

        Example::

            with trainer.init_module():
                model = Model()
        """
        return self.strategy.module_init_context(empty_init)

    def save_checkpoint(self, filepath: str | Path, weights_only: bool = False, storage_options: Any = None) -> None:
        """Write a checkpoint now; called by all ranks.

        Args:
            filepath: A path or URL.
            weights_only: Leave out what only training needs.
            storage_options: For the file system.
        """
        if self.model is None:
            raise AttributeError("There is nothing to save yet: call fit, validate, test or predict first.")
        if self.run.ran_elsewhere and not weights_only:
            rank_zero_warn(
                "This Trainer has no optimizers, since its fit ran in other processes or since it is a copy: the "
                "checkpoint has the weights alone. To resume a fit, let a checkpoint callback save within it."
            )
            weights_only = True
        self.strategy.save_checkpoint(contents.dump(self.run, weights_only), os.fspath(filepath), storage_options)
        self.strategy.barrier("save_checkpoint")

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print once, on rank 0, without tearing the progress bar."""
        if self.is_global_zero:
            bar = self.progress_bar_callback
            (bar.print if bar is not None and hasattr(bar, "print") else print)(*args, **kwargs)

    def describe_hooks(self) -> str:
        """For each hook of the last or running run: what is called, in what order, from which plugin.

        Raises:
            UnknownComponentError: The distribution that describes them is not installed.
        """
        return str(self.plugin_manager.component("command", "describe_hooks").load()(self))

    # -- what can be asked of it: of the run -------------------------------------------------------------

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

    # -- of processes and parts ---------------------------------------------------------------------------

    global_rank: int = forward("strategy.global_rank", "This process among all.")
    local_rank: int = forward("strategy.local_rank", "This process among those of its node.")
    node_rank: int = forward("strategy.node_rank", "This node among all.")
    world_size: int = forward("strategy.world_size", "Processes in all.")
    is_global_zero: bool = forward("strategy.is_global_zero", "Whether this process speaks for all.")
    distributed_sampler_kwargs: Any = forward("strategy.sampler_arguments", "For a distributed sampler, or None.")
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

    # -- of loops and data --------------------------------------------------------------------------------

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

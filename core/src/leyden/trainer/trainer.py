"""The Trainer: arguments in, a resolved run out.

A run is read downwards:

``fit`` → ``_run`` (what happens if it fails) → ``_execute`` (set up, run the loop, tear down) →
``loops/fit.py`` (epochs, batches) → ``loops/step.py`` (one batch).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch

import leyden.trainer.parts as parts
import leyden.trainer.setup as setup
from leyden.callback import Callback
from leyden.checkpoint import contents as checkpoint
from leyden.datamodule import LightningDataModule
from leyden.interfaces.accelerator import Accelerator
from leyden.interfaces.logger import Logger
from leyden.interfaces.profiler import PassThroughProfiler, Profiler
from leyden.interfaces.strategy import Strategy, tear_down
from leyden.loops.evaluate import EvaluationLoop
from leyden.loops.fit import FitLoop
from leyden.loops.optimizers import read_optimizers
from leyden.loops.predict import PredictionLoop
from leyden.loops.progress import Progress
from leyden.loops.step import BatchStep
from leyden.metrics import Logging
from leyden.module import LightningModule
from leyden.plugin_system.attribution import note_plugin
from leyden.plugin_system.manager import PluginManager
from leyden.plugin_system.registry import Registry
from leyden.plugin_system.table import HookTable, Member, run_manager
from leyden.trainer.arguments import PARTS, settle
from leyden.trainer.ckpt_path import select_checkpoint
from leyden.trainer.properties import TrainerProperties
from leyden.trainer.verify import find_module, verify_run
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn
from leyden.utilities.rng import isolate_rng
from leyden.utilities.states import RunningStage, TrainerFn, TrainerState, TrainerStatus
from leyden.utilities.warnings import PossibleUserWarning


class Trainer(TrainerProperties):
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
        accumulate_grad_batches: Batches per optimizer step.
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
        arguments = settle({name: value for name, value in locals().items() if name not in ("self", "__class__")})
        chosen = {name: arguments.pop(name) for name in PARTS}
        vars(self).update(arguments)  # the plain ones, under their own names
        self.state, self.progress = TrainerState(), Progress()
        self.optimizers, self.lr_scheduler_configs = [], []
        self.plugin_manager, instances = parts.sort_plugins(chosen["plugins"])
        try:
            self._build_parts(chosen, instances)
            self._build_loops()
            self.plugin_manager.hook.leyden_configure(trainer=self)
        except Exception as error:
            note_plugin(error, self.plugin_manager)
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

    def _build_loops(self) -> None:
        self.logging = Logging(self)
        self.fit_loop = FitLoop(self)
        self.validate_loop = EvaluationLoop(self, RunningStage.VALIDATING)
        self.test_loop = EvaluationLoop(self, RunningStage.TESTING)
        self.predict_loop = PredictionLoop(self)
        self.passes = {
            TrainerFn.VALIDATING: self.validate_loop,
            TrainerFn.TESTING: self.test_loop,
            TrainerFn.PREDICTING: self.predict_loop,
        }

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
        self.should_stop = False
        loaders = {"train": train_dataloaders, "val": val_dataloaders}
        self._run(TrainerFn.FITTING, model, loaders, datamodule, ckpt_path, weights_only)

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
        self.validate_loop.verbose = verbose
        results = self._run(TrainerFn.VALIDATING, model, {"val": dataloaders}, datamodule, ckpt_path, weights_only)
        return results  # type: ignore[no-any-return]

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
        self.test_loop.verbose = verbose
        results = self._run(TrainerFn.TESTING, model, {"test": dataloaders}, datamodule, ckpt_path, weights_only)
        return results  # type: ignore[no-any-return]

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
        self.predict_loop.return_predictions = return_predictions is not False
        results = self._run(TrainerFn.PREDICTING, model, {"predict": dataloaders}, datamodule, ckpt_path, weights_only)
        return results  # type: ignore[no-any-return]

    # -- a run --------------------------------------------------------------------------------------------

    def _run(
        self,
        fn: TrainerFn,
        model: LightningModule | None,
        loaders: dict[str, Any],
        datamodule: LightningDataModule | None,
        ckpt_path: str | Path | None,
        weights_only: bool | None,
    ) -> Any:
        """Check what was given, run it in every process, and end well whatever happens."""
        if self.is_running:
            raise MisconfigurationException(
                f"Trainer.{fn}() was called within Trainer.{self.state.fn}(); call it after that, or with a Trainer of "
                "its own."
            )
        provided = model is not None
        model = find_module(model if provided else self._module, fn)
        self._connect(fn, model, loaders, datamodule)
        path = select_checkpoint(self, fn, ckpt_path, provided)
        self.ckpt_path = path
        launcher = self.strategy.launcher
        execute = self._execute if launcher is None else partial(launcher.launch, self._execute)
        return execute(fn, path, weights_only)

    @contextmanager
    def _ending_well(self) -> Generator[None, None, None]:
        """A block that ends the run if it fails, and raises what failed first in any process."""
        try:
            yield
        except KeyboardInterrupt as interruption:
            rank_zero_info("Interrupted: ending the run; press again to end at once.")
            self._fail(interruption)
            raise SystemExit(1) from interruption
        except BaseException as error:
            participants = [*self.callbacks, self.datamodule, self._module, self.strategy]
            note_plugin(error, getattr(self, "run_plugins", self.plugin_manager), participants)
            cause = self.strategy.first_cause(error)
            self._fail(cause)
            if cause is error:
                raise
            raise cause from error

    def _connect(self, fn: TrainerFn, model: LightningModule, loaders: dict[str, Any], datamodule: Any) -> None:
        """Attach module, data module and loaders, and refuse what can't run before anything is touched."""
        first = next(iter(loaders))
        if isinstance(loaders[first], LightningDataModule):
            datamodule, loaders[first] = loaders[first], None
        given = any(loader is not None for loader in loaders.values())
        if given and datamodule is not None:
            raise MisconfigurationException("Both loaders and a datamodule were given; give one of the two.")
        if datamodule is not None and not isinstance(datamodule, LightningDataModule):
            raise MisconfigurationException(f"datamodule={datamodule!r} is no LightningDataModule.")
        self._module, self.datamodule = model, None if given else datamodule
        self._attach()
        self.state.fn, self.state.status = fn, TrainerStatus.INITIALIZING
        self._epoch_limits(fn)
        verify_run(self, fn, loaders)

    def _attach(self) -> None:
        self.lightning_module.trainer = self
        if self.datamodule is not None:
            self.datamodule.trainer = self

    def _epoch_limits(self, fn: TrainerFn) -> None:
        if fn != TrainerFn.FITTING:
            return
        if self.max_epochs is None:
            unlimited = self.max_steps == -1 and self.max_time is None
            if unlimited:
                rank_zero_warn(
                    "No limit was given: max_epochs is 1000. For no limit at all write max_epochs=-1.",
                    PossibleUserWarning,
                )
            self.max_epochs = 1000 if unlimited else -1
        if self.min_epochs is None and self.min_steps is not None:
            self.min_epochs = 1

    def _execute(self, fn: TrainerFn, ckpt_path: str | None, weights_only: bool | None) -> Any:
        """Set up, run the loop, tear down: one process's part of a run."""
        with self._ending_well():
            self._attach()  # anew where this process got the Trainer from another
            self.ran_elsewhere = self.received_sigterm = False
            self.asked_to_end = ""
            fitting = fn == TrainerFn.FITTING
            self.state.status = TrainerStatus.RUNNING
            self.state.stage = RunningStage.TRAINING if fitting else self.passes[fn].stage
            self.logging.reset()
            self.strategy.setup_environment()
            rank_zero_only.rank = self.strategy.global_rank
            setup.set_device_options(self)
            saved = self.strategy.load_checkpoint(ckpt_path, weights_only) if ckpt_path is not None else None
            setup.attach_module_callbacks(self)
            self.compile_hooks(self.plugin_manager)
            setup.prepare_data(self)
            self._set_up(fn, saved)
            if fitting:
                self.fit_loop.setup_passed_data()
                self._sanity_check(resumed=saved is not None)
                with torch.autograd.set_detect_anomaly(True) if self.detect_anomaly else nullcontext():
                    self.fit_loop.run()
            results: Any = None if fitting else self.passes[fn].run()
            self._tear_down(fn)
            return results

    def compile_hooks(self, plugins: PluginManager) -> None:
        """Resolve every hook for these plugins, the module, the data module and the callbacks as they are now."""
        members = [Member(callback, Callback) for callback in self.callbacks]
        for callback in self.callbacks:
            callback._logging_module = self.lightning_module
        if self.datamodule is not None:
            members.append(Member(self.datamodule, LightningDataModule, first=("setup", "teardown")))
        members.append(Member(self.lightning_module, LightningModule, first=("on_load_checkpoint",)))
        members.append(Member(self.strategy, Strategy))
        if self.state.fn == TrainerFn.FITTING:
            self.step = BatchStep(self)
            members.append(Member(self.step, None))
        self.run_plugins = run_manager(plugins, members)
        self.hooks = self.hook_table(self.run_plugins)

    def hook_table(self, plugins: PluginManager) -> HookTable:
        """The hooks of these plugins, resolved for this run."""
        run = {"trainer": self, "pl_module": self.lightning_module}
        return HookTable(plugins, run, self.logging, self._profile)

    def _set_up(self, fn: TrainerFn, saved: dict[str, Any] | None) -> None:
        """Call ``setup``, build the model, restore it, move it, and make its optimizers."""
        module = self.lightning_module
        setup.settle_log_directories(self)
        self.profiler.setup(fn.value, self.local_rank, self.log_dir)
        setup.call_setup(self, fn.value)
        with self.strategy.module_init_context():
            module.configure_model()
        checkpoint.warn_of_hparams(self)
        if saved is not None:
            self.precision_plugin.convert_module(module)  # float64 weights would lose bits in a float32 module
            checkpoint.restore_module(self, saved)
        if self.sync_batchnorm:
            self.strategy.convert_sync_batchnorm(module)
        self.strategy.setup_module(module, training=fn == TrainerFn.FITTING)
        if fn == TrainerFn.FITTING:
            checkpoint.warn_of_lost_parts(self)
            optimizers, self.lr_scheduler_configs = read_optimizers(module)
            self.optimizers = self.strategy.setup_optimizers(optimizers)
            if self.hooks.on_fit_start is not None:
                self.hooks.on_fit_start()
        if self.enable_autolog_hparams:
            setup.log_hyperparameters(self)
        module.zero_grad()
        if saved is not None and fn == TrainerFn.FITTING:
            checkpoint.restore_training(self, saved)

    def _sanity_check(self, resumed: bool) -> None:
        """Try a few validation batches, and leave no trace of them in random states and metrics."""
        if resumed or not self.enable_validation or not self.num_sanity_val_steps:
            return
        hooks = self.hooks
        with isolate_rng(self.accelerator, self.strategy.root_device), self.stage_of(RunningStage.SANITY_CHECKING):
            if hooks.on_sanity_check_start is not None:
                hooks.on_sanity_check_start()
            self.fit_loop.validation.run()
            if hooks.on_sanity_check_end is not None:
                hooks.on_sanity_check_end()
        self.logging.reset()

    def _tear_down(self, fn: TrainerFn) -> None:
        """End a run that went well."""
        hooks = self.hooks
        self._release()
        if fn == TrainerFn.FITTING and hooks.on_fit_end is not None:
            hooks.on_fit_end()
        if hooks.teardown is not None:
            hooks.teardown(fn.value)
        for logger in self.loggers:
            logger.finalize("success")
        self.profiler.describe()
        self.profiler.teardown(fn.value)
        self.state.status, self.state.stage = TrainerStatus.FINISHED, None

    def _release(self, error: BaseException | None = None) -> None:
        """Bring model and metrics to the host and let go of the device and of loaders' workers."""
        for loop in (self.fit_loop, self.fit_loop.validation, *self.passes.values()):
            if loop.loader is not None:
                loop.loader.stop_workers()
        tear_down(self.strategy, self._module, error)
        self.precision_plugin.teardown()
        self.strategy.checkpoint_io.teardown()
        self.logging.to_host()

    def _fail(self, error: BaseException) -> None:
        """End a run that did not go well: tell everybody, finish the loggers, free the device."""
        self.state.status = TrainerStatus.INTERRUPTED
        hooks = getattr(self, "hooks", None)
        if hooks is not None and hooks.on_exception is not None:
            hooks.on_exception(error)
        for logger in self.loggers:
            logger.finalize("failed")
        self._release(error)
        self.state.stage = None

    def wants(self, role: str) -> bool:
        """Whether a default callback with this role should be added: it is enabled and no callback has it."""
        enabled = getattr(self, parts.ROLES[role]) is not (None if role == "timer" else False)
        return enabled and not any(callback.role == role for callback in self.callbacks)

    @contextmanager
    def stage_of(self, stage: RunningStage) -> Generator[None, None, None]:
        """A block in which ``state.stage`` is ``stage``."""
        outer, self.state.stage = self.state.stage, stage
        yield
        self.state.stage = outer

    @property
    def _profile(self) -> Callable[[str], Any] | None:
        """What measures a block by the action's name; None where nothing is measured, so that nothing is called."""
        return None if type(self.profiler) is PassThroughProfiler else self.profiler.profile

    def measured(self, action: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, timed by the profiler where there is one."""
        profile = self._profile
        if profile is None:
            return function

        def measured(*args: Any, **kwargs: Any) -> Any:
            with profile(action):
                return function(*args, **kwargs)

        return measured

    def measure(self, action: str) -> Callable[[], Any] | None:
        """What makes a context manager that times a block, or None without a profiler."""
        profile = self._profile
        return None if profile is None else partial(profile, action)

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
        if self._module is None:
            raise AttributeError("There is nothing to save yet: call fit, validate, test or predict first.")
        if self.ran_elsewhere and not weights_only:
            rank_zero_warn(
                "The fit ran in other processes and its optimizers ended with them: the checkpoint has the weights "
                "alone. To resume a fit, let a checkpoint callback save within it."
            )
            weights_only = True
        state = checkpoint.dump(self, weights_only)
        self.strategy.save_checkpoint(state, os.fspath(filepath), storage_options)
        self.strategy.barrier("save_checkpoint")

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print once, on rank 0, without tearing the progress bar."""
        if self.is_global_zero:
            bar = self.progress_bar_callback
            (bar.print if bar is not None and hasattr(bar, "print") else print)(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("hooks", "step")}

    def describe_hooks(self) -> str:
        """For each hook of the last or running run: what is called, in what order, from which plugin.

        Raises:
            UnknownComponentError: The distribution that describes them is not installed.
        """
        description: str = Registry(self.plugin_manager).get("command", "describe_hooks").load()(self)
        return description

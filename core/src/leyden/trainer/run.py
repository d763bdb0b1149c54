"""A run: one fit, validate, test or predict, from the arguments that were checked to its end.

``execute`` is read downwards: meet the other processes, read the checkpoint, set up, run the loop, tear down.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from leyden.callback import Callback
from leyden.checkpoint import contents
from leyden.checkpoint.file import refuse_foreign
from leyden.data.loading import DataSource
from leyden.datamodule import LightningDataModule
from leyden.interfaces.logger import Logger, agree_on_versions
from leyden.interfaces.profiler import PassThroughProfiler
from leyden.interfaces.strategy import Strategy
from leyden.loops.evaluate import EvaluationLoop, PredictionLoop
from leyden.loops.fit import FitLoop
from leyden.loops.optimizers import LRSchedulerConfig, read_optimizers
from leyden.loops.progress import Progress
from leyden.loops.step import BatchStep
from leyden.metrics import Metrics
from leyden.module import LightningModule
from leyden.plugin_system.hooks import RUN_HOOKS
from leyden.plugin_system.manager import PluginManager
from leyden.plugin_system.table import HookTable, Participant, note_plugin
from leyden.trainer.parts import as_list, order_callbacks
from leyden.utilities import MisconfigurationException, isolate_rng, rank_zero_info, rank_zero_only
from leyden.utilities.objects import Stash, forward, is_at
from leyden.utilities.states import RunningStage, TrainerFn, TrainerState, TrainerStatus

if TYPE_CHECKING:
    from leyden.trainer.trainer import Trainer


class Run:
    """What belongs to one run and to no other. To make one touches nothing; ``trainer.run`` is the one accepted last.

    An evaluation shows the counters, the optimizers and the loops of the runs before it, and a fit goes on counting
    from the one before it. A module that runs talks to this object (:class:`~leyden.interfaces.runner.Runner`).

    Args:
        trainer: Whose run it is; its settings and parts are used.
        fn: What the user called; None for what a Trainer has before its first run.
        module: The module.
        datamodule: The data module, or None.
        sources: Where the loaders come from, by the prefix of their hooks: "train", "val", "test", "predict".
        ckpt_path: The checkpoint to load, or None.
        goes_on: Whether that was found by a name such as "last", so that a fit goes on in the run that wrote it.
        weights_only: False lets the checkpoint hold objects, and so run code.
        options: Further arguments of the loop: ``verbose`` of an evaluation, ``return_predictions`` of a prediction.

    Attributes:
        state: The function, the stage that runs now, and how far the run has come.
        progress: The counters of the fit.
        metrics: What was logged.
        log: Takes one ``self.log`` call.
        hooks: What is called at each hook; nothing until the run has begun.
        step: Trains on one batch; None without a fit.
        lr_scheduler_configs: The schedulers, and when each steps.
        loop: The loop of this run.
        loops: The last loop of each function.
        stash: Where plugins keep state of theirs for as long as the run is there.
        told: What was warned of already, in this run of the Trainer or an earlier one.
        should_stop: Whether something has asked the fit to stop, at the end of an epoch or when its minimum is met.
        asked_to_end: Why the fit must end at the next step boundary, or "".
        received_sigterm: Whether a signal was why.
        ran_elsewhere: Whether the run took place in other processes, or in what this is a copy of, where its
            optimizers are.
        log_dir: The directory of its logs, the same in all processes; None until they have agreed on it.
    """

    fabric = None

    def __init__(
        self,
        trainer: Trainer,
        fn: TrainerFn | None = None,
        module: LightningModule | None = None,
        datamodule: LightningDataModule | None = None,
        sources: Mapping[str, DataSource | None] | None = None,
        ckpt_path: str | None = None,
        goes_on: bool = False,
        weights_only: bool | None = None,
        **options: Any,
    ) -> None:
        self.trainer, self.state = trainer, TrainerState(fn=fn)
        self.module = cast(LightningModule, module)  # what a Trainer has before its first run has none
        self.datamodule = datamodule
        self.ckpt_path, self.goes_on, self.weights_only = ckpt_path, goes_on, weights_only
        self.metrics = Metrics(self)
        self.log = self.metrics.log  # a bound method: a module may call it many times in a batch
        self.hooks = HookTable.empty()
        self.stash = Stash()
        self.should_stop = self.received_sigterm = self.ran_elsewhere = False
        self.asked_to_end = ""
        self.log_dir: str | None = None
        before: Run | None = getattr(trainer, "run", None)
        self.step: BatchStep | None = None
        self.lr_scheduler_configs: list[LRSchedulerConfig] = []
        self.told: set[str] = before.told if before is not None else set()
        if before is None:
            self.progress = Progress()
        elif fn is TrainerFn.FITTING:
            self.progress = before.progress.of_next_fit()
        else:
            self.progress, self.step, self.should_stop = before.progress, before.step, before.should_stop
            self.lr_scheduler_configs = before.lr_scheduler_configs
        self.loops: dict[TrainerFn, Any] = dict(before.loops) if before is not None else {}
        for function in [fn] if fn is not None else TrainerFn:
            self.loops[function] = self._make_loop(function, sources or {}, options)
        self.loop: Any = self.loops[fn or TrainerFn.FITTING]

    def _make_loop(self, fn: TrainerFn, sources: Mapping[str, DataSource | None], options: dict[str, Any]) -> Any:
        if fn is TrainerFn.FITTING:
            return FitLoop(self, sources.get("train"), sources.get("val"))
        if fn is TrainerFn.PREDICTING:
            return PredictionLoop(self, sources.get("predict"), **options)
        stage = RunningStage(fn)
        return EvaluationLoop(self, stage, sources.get(stage.dataloader_prefix), **options)

    # -- where it is, for the module and the loops --------------------------------------------------------

    is_fit: bool = is_at("state.fn", TrainerFn.FITTING, "Whether it trains.")
    is_running: bool = is_at("state.status", TrainerStatus.RUNNING, "Whether it is under way.")
    sanity_checking: bool = is_at("state.stage", RunningStage.SANITY_CHECKING, "Whether it tries a few batches first.")
    strategy: Strategy = forward("trainer.strategy", "The Trainer's strategy.")
    loggers: list[Logger] = forward("trainer.loggers", "The Trainer's loggers.")
    current_epoch: int = forward("progress.epoch", "Epochs finished; the index of the running one.")
    global_step: int = forward("progress.optimizer_steps", "Optimizer steps taken, of all optimizers.")
    backward: Any = forward("step.backward", "``self.manual_backward``.")
    clip_gradients: Any = forward("step.clip_gradients", "``self.clip_gradients``; what is None is the Trainer's.")
    print: Any = forward("trainer.print", "Prints once, on rank 0, without tearing the progress bar.")

    @property
    def optimizers(self) -> list[Any]:
        """The optimizers of the fit; a hook may assign others, with which it goes on."""
        return self.step.optimizers if self.step is not None else []

    @optimizers.setter
    def optimizers(self, optimizers: Iterable[Any]) -> None:
        if self.step is not None:
            self.step.use_optimizers(optimizers)

    @property
    def wrapped_optimizers(self) -> list[Any]:
        """The optimizers as steps see them: their ``step`` is counted and calls the hooks."""
        return self.step.wrapped if self.step is not None else []

    @property
    def lr_schedulers(self) -> list[Any]:
        """The schedulers of the fit."""
        return [config.scheduler for config in self.lr_scheduler_configs]

    @property
    def owners(self) -> list[Any]:
        """Who has loaders and hyperparameters: the data module, if there is one, and the module."""
        return [owner for owner in (self.datamodule, self.module) if owner is not None]

    def not_told(self, subjects: Iterable[str]) -> list[str]:
        """Those of the subjects of which no run of the Trainer has warned; now this one does."""
        news = [subject for subject in subjects if subject not in self.told]
        self.told.update(news)
        return news

    # -- from beginning to end ----------------------------------------------------------------------------

    def attach(self) -> None:
        """Let module and data module know who runs them, and the callbacks that a fit from the beginning comes."""
        self.module._attach(self)
        if self.datamodule is not None:
            self.datamodule.trainer = self.trainer
        if self.is_fit and self.ckpt_path is None and self.progress == Progress():
            for callback in self.trainer.callbacks:
                callback.start_anew()

    def execute(self) -> Any:
        """Do all of this process's part: set up, run the loop, tear down; return what the user's call returns."""
        with self._ending_well():
            self.attach()  # anew where this process got the run from another
            trainer, strategy = self.trainer, self.strategy
            self.state.status = TrainerStatus.RUNNING
            self.state.stage = RunningStage.TRAINING if self.is_fit else self.loop.stage
            strategy.setup_environment()
            rank_zero_only.rank = strategy.global_rank
            mode = trainer.deterministic
            if mode is not None:
                torch.use_deterministic_algorithms(bool(mode), warn_only=mode == "warn")
            trainer.accelerator.set_options(deterministic=bool(mode), benchmark=trainer.benchmark)
            path = self.ckpt_path = strategy.broadcast(self.ckpt_path)
            saved = refuse_foreign(strategy.load_checkpoint(path, self.weights_only), path) if path else None
            self._attach_module_callbacks()
            self.compile_hooks(trainer.plugin_manager)
            if self.is_fit and self.goes_on and saved is not None:
                trainer.plugin_manager.hook.leyden_go_on(trainer=trainer, checkpoint=saved)
            self._prepare_data()
            self._set_up(saved)
            if self.is_fit:
                self.loop.setup_passed_data()
                self._check_sanity(resumed=saved is not None)
            with torch.autograd.set_detect_anomaly(True) if self.is_fit and trainer.detect_anomaly else nullcontext():
                results = self.loop.run()
            self._tear_down()
            return results

    @contextmanager
    def _ending_well(self) -> Generator[None, None, None]:
        """A block that ends the run if it fails, and raises what failed first in any process."""
        try:
            yield
        except KeyboardInterrupt as interruption:
            rank_zero_info("Interrupted: ending the run; press again to end at once.")
            self._fail(interruption)
            raise
        except BaseException as error:
            note_plugin(error, self.hooks.by_hook, [*self.trainer.callbacks, *self.owners, self.strategy])
            cause = self.strategy.first_cause(error)
            self._fail(cause)
            if cause is error:
                raise
            raise cause from error

    def _attach_module_callbacks(self) -> None:
        """Add the model's own callbacks; they replace the Trainer's of the same type."""
        returned = self.module.configure_callbacks()
        own = as_list(returned)
        if not all(isinstance(callback, Callback) for callback in own):
            raise MisconfigurationException(f"configure_callbacks returned {returned!r}; return a list of callbacks.")
        types = {type(callback) for callback in own}
        kept = [callback for callback in self.trainer.callbacks if type(callback) not in types]
        self.trainer.callbacks = order_callbacks([*kept, *own])
        self.attach()  # for those that have joined

    def compile_hooks(self, plugins: PluginManager) -> None:
        """Resolve every hook for these plugins, the module, the data module and the callbacks as they are now."""
        participants = [Participant(callback, Callback) for callback in self.trainer.callbacks]
        for callback in self.trainer.callbacks:
            callback._logging_module = self.module
        if self.datamodule is not None:
            participants.append(Participant(self.datamodule, LightningDataModule, first=("setup", "teardown")))
        participants.append(Participant(self.module, LightningModule, first=("on_load_checkpoint",)))
        names = [name for name in RUN_HOOKS if not hasattr(Strategy, name)]  # what Strategy has is its own, as teardown
        participants.append(Participant(self.strategy, Strategy, names=names))
        if self.is_fit:
            self.step = self.step or BatchStep(self)
            participants.append(Participant(self.step, None))
        arguments = {"trainer": self.trainer, "pl_module": self.module}
        self.hooks = HookTable(plugins, participants, arguments, self.metrics, self.timed)

    def _prepare_data(self) -> None:
        """Call ``prepare_data`` in one process of each node, or in one of all."""
        strategy = self.strategy
        for owner in self.owners:
            per_node = getattr(owner, "prepare_data_per_node", True)
            if strategy.local_rank == 0 and (per_node or strategy.node_rank == 0):
                owner.prepare_data()
        strategy.barrier("prepare_data")

    def _set_up(self, saved: dict[str, Any] | None) -> None:
        """Call ``setup``, build the model, restore it, move it, and make its optimizers."""
        trainer, module, strategy = self.trainer, self.module, self.strategy
        self._agree_on_log_directories()
        trainer.profiler.setup(str(self.state.fn), strategy.local_rank, trainer.log_dir)
        self._call_setup()
        with strategy.module_init_context():
            module.configure_model()
        if saved is not None:
            strategy.precision.convert_module(module)  # float64 weights would lose bits in a float32 module
            contents.restore_module(self, saved)
        if trainer.sync_batchnorm:
            strategy.convert_sync_batchnorm(module)
        strategy.setup_module(module, training=self.is_fit)
        if self.is_fit:
            optimizers, self.lr_scheduler_configs = read_optimizers(module)
            self.optimizers = strategy.setup_optimizers(optimizers)
            self.hooks.on_fit_start()
        if trainer.enable_autolog_hparams:
            self._log_hyperparameters()
        module.zero_grad()
        if saved is not None and self.is_fit:
            contents.restore_training(self, saved)

    def _agree_on_log_directories(self) -> None:
        """Have every logger choose its version before any writes, so that those with free choice take the same one.

        Rank 0 chooses for all.
        """
        agree_on_versions(self.loggers, self.strategy)
        self.log_dir = self.strategy.broadcast(self.trainer.log_dir)
        places = [(type(logger).__name__, logger.log_dir) for logger in self.loggers if logger.log_dir is not None]
        for kind, directory in (place for place in places if places.count(place) > 1):
            raise MisconfigurationException(
                f"Two loggers of type {kind} write to {directory!r}; give each its own name or version."
            )

    def _call_setup(self) -> None:
        """Call ``setup``; callbacks that it adds to ``trainer.callbacks`` are set up too and take part in the run."""
        trainer, function = self.trainer, str(self.state.fn)
        known = list(trainer.callbacks)
        self.hooks.setup(function)
        while trainer.callbacks != known:
            added = [callback for callback in trainer.callbacks if callback not in known]
            trainer.callbacks = order_callbacks(trainer.callbacks)
            known = list(trainer.callbacks)
            self.compile_hooks(self.hooks.manager)  # not the installed ones: some may have joined for this run
            self.hooks.of("setup", added)(function)

    def _log_hyperparameters(self) -> None:
        """Give the loggers the hyperparameters of module and data module, and the model's graph."""
        logged = [owner.hparams_initial for owner in self.owners if owner._log_hyperparams]
        merged: dict[str, Any] = {}
        for hparams in logged:
            for name, value in hparams.items():
                if merged.setdefault(name, value) is not value and merged[name] != value:
                    raise MisconfigurationException(
                        f"The hyperparameter {name!r} is {value!r} in the module and {merged[name]!r} in the data "
                        "module; rename one, or save one with logger=False."
                    )
        for logger in self.loggers:
            if logged:
                logger.log_hyperparams(merged)
            logger.log_graph(self.module)
            logger.save()

    def _check_sanity(self, resumed: bool) -> None:
        """Try a few validation batches, and leave no trace of them in random states and metrics."""
        trainer, hooks = self.trainer, self.hooks
        if resumed or not self.loop.validates or not trainer.num_sanity_val_steps:
            return
        with isolate_rng(trainer.accelerator, self.strategy.root_device), self.stage_of(RunningStage.SANITY_CHECKING):
            hooks.on_sanity_check_start()
            self.loop.validation.run()
            hooks.on_sanity_check_end()
        self.metrics.forget()

    def _tear_down(self) -> None:
        """End a run that went well."""
        function = str(self.state.fn)
        self._release()
        if self.is_fit:
            self.hooks.on_fit_end()
        self.hooks.teardown(function)
        for logger in self.loggers:
            logger.finalize("success")
        self.trainer.profiler.describe()
        self.trainer.profiler.teardown(function)
        self.state.status, self.state.stage = TrainerStatus.FINISHED, None

    def _fail(self, error: BaseException) -> None:
        """End a run that did not go well: tell everybody, finish the loggers, free the device."""
        self.state.status = TrainerStatus.INTERRUPTED
        self.hooks.on_exception(error)
        for logger in self.loggers:
            logger.finalize("failed")
        self._release(error)
        self.state.stage = None

    def _release(self, error: BaseException | None = None) -> None:
        """Bring model and metrics to the host and let go of the device and of loaders' workers."""
        loops = [self.loop, self.loop.validation] if self.is_fit else [self.loop]
        for loop in loops:
            if loop.loader is not None:
                loop.loader.stop_workers()
        self.strategy.teardown(self.module, error)
        self.strategy.precision.teardown()
        self.strategy.checkpoint_io.teardown()
        self.metrics.to_host()
        for loop in loops:
            if error is not None and loop.results is not None:
                loop.results.reset()  # the next run of the module does not find this one's batches in its metrics

    @contextmanager
    def stage_of(self, stage: RunningStage) -> Generator[None, None, None]:
        """A block in which ``state.stage`` is ``stage``."""
        outer, self.state.stage = self.state.stage, stage
        try:
            yield
        finally:
            self.state.stage = outer

    # -- measuring ----------------------------------------------------------------------------------------

    def timer(self, action: str) -> Callable[[], Any] | None:
        """What makes a context manager that times a block; None without a profiler, so that nothing is called."""
        profiler = self.trainer.profiler
        return None if type(profiler) is PassThroughProfiler else partial(profiler.profile, action)

    def timed(self, action: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, timed by the profiler where there is one."""
        timer = self.timer(action)
        if timer is None:
            return function

        def call(*args: Any, **kwargs: Any) -> Any:
            with timer():
                return function(*args, **kwargs)

        return call

    def __getstate__(self) -> dict[str, Any]:
        here: dict[str, Any] = {"hooks": HookTable.empty(), "step": None, "lr_scheduler_configs": [], "stash": Stash()}
        return {**vars(self), **here, "ran_elsewhere": self.ran_elsewhere or self.step is not None}

"""The Trainer: arguments in, a resolved run out.

A run is read downwards:

``fit`` → ``_run`` (check what was given) → ``run.py`` (set up, run the loop, tear down) →
``loops/fit.py`` (epochs, batches) → ``loops/step.py`` (one batch).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import timedelta
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
from leyden.module import LightningModule
from leyden.plugin_system.table import implementations, note_plugin
from leyden.trainer.arguments import PARTS, settle
from leyden.trainer.checks import prepare
from leyden.trainer.properties import TrainerProperties
from leyden.trainer.run import Run
from leyden.utilities.rank_zero import rank_zero_warn
from leyden.utilities.states import TrainerFn
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
        loaders, fn = {"val": dataloaders}, TrainerFn.VALIDATING
        results: list[dict[str, float]]
        results = self._run(fn, model, loaders, datamodule, ckpt_path, weights_only, verbose=verbose)
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
        loaders, fn = {"test": dataloaders}, TrainerFn.TESTING
        results: list[dict[str, float]]
        results = self._run(fn, model, loaders, datamodule, ckpt_path, weights_only, verbose=verbose)
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
        loaders, fn = {"predict": dataloaders}, TrainerFn.PREDICTING
        wanted = return_predictions is not False
        results: list[Any] | None
        results = self._run(fn, model, loaders, datamodule, ckpt_path, weights_only, return_predictions=wanted)
        return results

    # -- a run --------------------------------------------------------------------------------------------

    def _run(self, fn: TrainerFn, *arguments: Any, **options: Any) -> Any:
        """Check what was given, and run it in every process; what is refused leaves everything as it was."""
        run = prepare(self, fn, *arguments, **options)
        self._limit_epochs(fn)
        self.run = run
        run.attach()
        launcher = self.strategy.launcher
        return run.execute() if launcher is None else launcher.launch(run.execute)

    def _limit_epochs(self, fn: TrainerFn) -> None:
        if fn is not TrainerFn.FITTING:
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
                "The fit ran in other processes and its optimizers ended with them: the checkpoint has the weights "
                "alone. To resume a fit, let a checkpoint callback save within it."
            )
            weights_only = True
        state = contents.dump(self.run, weights_only)
        self.strategy.save_checkpoint(state, os.fspath(filepath), storage_options)
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
        description: str = self.plugin_manager.component("command", "describe_hooks").load()(self)
        return description

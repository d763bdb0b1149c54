"""ModelCheckpoint: saves the run while it trains, keeps the best checkpoints and removes the others."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from leyden import hookimpl
from leyden.utilities import MisconfigurationException, missing_metric, rank_zero_info, rank_zero_warn
from leyden.utilities.storage import is_remote
from leyden_callbacks import storage
from leyden_callbacks.checkpoint_files import CheckpointFiles

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer


class ModelCheckpoint(CheckpointFiles):
    """Saves checkpoints during a fit and keeps the ``save_top_k`` best ones by a logged metric.

    Without arguments it saves after every epoch and keeps the newest. One Trainer may have several, which save at
    different times, by different metrics or to different directories. In a ``fast_dev_run`` it does nothing.

    Args:
        dirpath: Directory of the files, local or a URL that fsspec understands. By default ``checkpoints`` in the
            first logger's directory of this run, or in ``default_root_dir`` if there is no logger.
        filename: Template of the file names, without the extension: ``"{epoch}-{val_loss:.2f}"`` gives
            ``epoch=2-val_loss=0.32.ckpt``. Fields are logged metrics, ``epoch`` (from 0) and ``step`` (optimizer
            steps done). The default is ``"{epoch}-{step}"``.
        monitor: The logged metric by which checkpoints are ranked; None ranks the newest first.
        verbose: Whether to log what was saved, and its score.
        save_last: Whether to keep the newest checkpoint as ``last.ckpt`` too: True writes a second file, ``"link"``
            makes a symbolic link (local directories only).
        save_top_k: How many checkpoints to keep; 0 keeps none but that of ``save_last``, -1 all. More than 1 needs
            ``monitor``.
        save_on_exception: Whether to save when an exception, Ctrl-C included, ends the fit.
        save_weights_only: Whether to leave out the states that only resuming needs: optimizers, schedulers, loops.
        mode: "min" if the smallest ``monitor`` is the best, "max" if the largest is.
        auto_insert_metric_name: Whether ``{epoch}`` becomes ``epoch=2``; False writes ``2``. The name of a metric
            makes no directory: ``{val/loss:.2f}`` becomes ``val_loss=0.32``.
        every_n_train_steps: Save whenever the number of optimizer steps is a multiple of this.
        train_time_interval: Save after the first training batch that ends this long after the last save.
        every_n_epochs: Save after every n-th epoch; 0 never. The default is 1 if neither of the two arguments above
            is given, else 0. Only one of the three may be given.
        save_on_train_epoch_end: True saves when the training epoch ends, False when validation ends. By default it
            saves when the training epoch ends if validation runs once in every epoch or not at all, else when
            validation ends.
        enable_version_counter: Whether to add ``-v1``, ``-v2``, … to a file name instead of overwriting a file that
            another run wrote.

    Attributes:
        best_model_path: Path of the best checkpoint, without ``monitor`` of the newest; "" before the first.
        best_model_score: The best checkpoint's ``monitor``, a scalar tensor.
        best_k_models: Maps the path of each kept checkpoint to its score; empty without ``monitor``.
        kth_best_model_path: Path of the worst kept checkpoint, which a better one will replace.
        kth_value: The worst kept checkpoint's score.
        current_score: ``monitor`` at the latest save.
        last_model_path: Path of the file of ``save_last``.

    Raises:
        MisconfigurationException: An argument is out of range, or two arguments contradict each other; or, during
            a fit, ``monitor`` was never logged.
    """

    OF_ONE_FIT = (
        "best_k_models",
        "best_model_path",
        "best_model_score",
        "kth_best_model_path",
        "kth_value",
        "current_score",
        "last_model_path",
        "_last_global_step_saved",
        "_last_checkpoint_saved",
    )

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        verbose: bool = False,
        save_last: bool | Literal["link"] | None = None,
        save_top_k: int = 1,
        save_on_exception: bool = False,
        save_weights_only: bool = False,
        mode: Literal["min", "max"] = "min",
        auto_insert_metric_name: bool = True,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        every_n_epochs: int | None = None,
        save_on_train_epoch_end: bool | None = None,
        enable_version_counter: bool = True,
    ) -> None:
        super().__init__(dirpath, filename, auto_insert_metric_name, enable_version_counter)
        self.monitor = monitor
        self.verbose = verbose
        self.save_last = save_last
        self.save_top_k = save_top_k
        self.save_on_exception = save_on_exception
        self.save_weights_only = save_weights_only
        self.mode = mode
        no_trigger = every_n_train_steps is None and train_time_interval is None and every_n_epochs is None
        self._every_n_train_steps = every_n_train_steps or 0
        self._every_n_epochs = 1 if no_trigger else every_n_epochs or 0
        self._train_time_interval = train_time_interval
        self._save_on_train_epoch_end = save_on_train_epoch_end
        self._check_arguments()

        self.best_model_path = self.kth_best_model_path = self.last_model_path = ""
        self.best_model_score: Tensor | None = None
        self.kth_value = torch.tensor(torch.inf if mode == "min" else -torch.inf)
        self.current_score: Tensor | None = None
        self._last_global_step_saved = 0  # before the first step there is nothing worth saving
        self._last_checkpoint_saved = ""
        self._chosen_dirpath: str | None = None  # a directory of a run's own, which the user has not given
        self._may_save = True  # not in a run other than a fit
        self._coming_last = ""  # while a checkpoint is written: where the file of save_last will be
        self._last_time_checked = 0.0
        self._deferred = False  # a save was due, but it waits for validation to log its metric
        self._validated = False

    def _check_arguments(self) -> None:
        if self.mode not in ("min", "max"):
            raise MisconfigurationException(f'ModelCheckpoint(mode={self.mode!r}) must be "min" or "max".')
        if self.save_top_k < -1:
            raise MisconfigurationException(f"ModelCheckpoint(save_top_k={self.save_top_k}) must be -1 (all) or more.")
        for name in ("every_n_train_steps", "every_n_epochs"):
            if (value := getattr(self, f"_{name}")) < 0:
                raise MisconfigurationException(f"ModelCheckpoint({name}={value}) must be 0 (never) or more.")
        triggers = {
            "every_n_train_steps": self._every_n_train_steps >= 1,
            "every_n_epochs": self._every_n_epochs >= 1,
            "train_time_interval": self._train_time_interval is not None,
        }
        if sum(triggers.values()) > 1:
            given = " and ".join(name for name, on in triggers.items() if on)
            raise MisconfigurationException(
                f"ModelCheckpoint takes only one of {given}; give the Trainer a ModelCheckpoint for each of them."
            )
        if self.monitor is None and self.save_top_k not in (-1, 0, 1):
            raise MisconfigurationException(
                f"ModelCheckpoint(save_top_k={self.save_top_k}) needs monitor=, the metric that ranks checkpoints."
            )

    @property
    def every_n_epochs(self) -> int:
        """Number of epochs between two saves; 0 if epochs do not trigger saves."""
        return self._every_n_epochs

    @property
    def state_key(self) -> str:
        """The class's name with the arguments that decide when to save, and by which metric checkpoints are ranked."""
        return self._generate_state_key(
            monitor=self.monitor,
            mode=self.mode,
            every_n_train_steps=self._every_n_train_steps,
            every_n_epochs=self._every_n_epochs,
            train_time_interval=self._train_time_interval,
        )

    @property
    def distinction(self) -> str:  # type: ignore[override]
        """The other arguments that say what is kept and where, so that two with one ``state_key`` keep their states."""
        what = (self.save_top_k, self.save_last, self.save_weights_only, self._save_on_train_epoch_end)
        return repr((self._given_dirpath, self.filename, *what))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the directory, the same on every rank, and warn if it is not empty."""
        directory = trainer.strategy.broadcast(self._resolve_dirpath(trainer))
        self._take_dirpath(directory)
        self._resumed_from = storage.place(trainer.ckpt_path or "")
        if self.save_last == "link" and is_remote(directory):
            raise ValueError(f'ModelCheckpoint(save_last="link") needs a local directory, not {directory!r}; use True.')
        self._may_save = stage == "fit"
        writes = self._may_save and self.save_top_k != 0 and not trainer.fast_dev_run
        if writes and trainer.is_global_zero and storage.listing(directory):
            rank_zero_warn(f"Checkpoint directory {directory} exists and is not empty.")

    def _take_dirpath(self, directory: str | None) -> None:
        if self.dirpath is None:
            self._chosen_dirpath = directory
        self.dirpath = directory

    def start_anew(self) -> None:
        """Be as before the first fit, but for a directory that the user has given since."""
        super().start_anew()
        if self.dirpath == self._chosen_dirpath:
            self.dirpath = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of ``train_time_interval``."""
        self._last_time_checked = time.monotonic()
        self._deferred = self._validated = False

    @hookimpl(trylast=True)  # a resumed run does not call this hook again, so all others must have run before the save
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if ``every_n_train_steps`` or ``train_time_interval`` makes a save due."""
        if self._every_n_train_steps < 1 and self._train_time_interval is None:
            return
        if not self._is_due(trainer) or self._should_skip(trainer):
            return
        candidates = self._candidates(trainer)
        missing = self.monitor is not None and self.monitor not in candidates
        if missing or (self.monitor is not None and self._validation_follows(trainer)):
            self._deferred = True
            return
        self._save(trainer, candidates)

    def _is_due(self, trainer: Trainer) -> bool:
        if self._train_time_interval is None:
            return bool(trainer.global_step % self._every_n_train_steps == 0)
        now = time.monotonic()
        due = now - self._last_time_checked >= self._train_time_interval.total_seconds()
        if trainer.world_size > 1:  # clocks differ between ranks, but all must save together
            due = trainer.strategy.broadcast(due)
        if due:
            self._last_time_checked = now
        return due

    def _validation_follows(self, trainer: Trainer) -> bool:
        """Whether a save must wait for the validation that follows this batch, to use its new metrics."""
        if not trainer.is_last_batch or self._saves_on_train_epoch_end(trainer) or not _validation_batches(trainer):
            return False
        every = trainer.check_val_every_n_epoch
        return every is None or (trainer.current_epoch + 1) % every == 0

    @hookimpl(trylast=True)
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, if saves are made at the end of a training epoch. Runs last, as others may still log in this hook."""
        if self._should_skip(trainer):
            return
        if self._saves_on_train_epoch_end(trainer):
            self._save_at_epoch(trainer)
        if self._deferred:
            self._require_monitor(trainer, self._candidates(trainer))

    @hookimpl(trylast=True)
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, if saves are made at the end of validation or one was put off until now."""
        self._validated = self._validated or not trainer.sanity_checking
        if self._should_skip(trainer) or self._saves_on_train_epoch_end(trainer):
            return
        if self._deferred:
            self._deferred = False
            self._save(trainer, self._candidates(trainer))
        else:
            self._save_at_epoch(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file of ``save_last`` if the whole fit wrote no checkpoint."""
        if self.save_last and not self._last_checkpoint_saved and not trainer.fast_dev_run:
            self._save_last(trainer, self._candidates(trainer))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save with ``save_on_exception``, if there were optimizer steps since the last save."""
        if not self.save_on_exception or self._should_skip(trainer):
            return
        candidates = self._candidates(trainer)
        path = self._free_path(trainer, candidates, self.filename, keep="")
        self._save_checkpoint(trainer, path)
        self._save_last(trainer, candidates)
        rank_zero_info("%s ended the fit; its state is saved in %s.", type(exception).__name__, path)

    def _should_skip(self, trainer: Trainer) -> bool:
        return (
            bool(trainer.fast_dev_run)
            or trainer.state.fn != "fit"
            or trainer.sanity_checking
            or self._last_global_step_saved == trainer.global_step
        )

    def _saves_on_train_epoch_end(self, trainer: Trainer) -> bool:
        if self._save_on_train_epoch_end is not None:
            return self._save_on_train_epoch_end
        interval = trainer.val_check_interval
        if not isinstance(interval, (int, float)) or trainer.check_val_every_n_epoch != 1:
            return False
        return interval == 1.0 or not _validation_batches(trainer)

    def _save_at_epoch(self, trainer: Trainer) -> None:
        candidates = self._candidates(trainer)
        due = self._every_n_epochs >= 1 and (trainer.current_epoch + 1) % self._every_n_epochs == 0
        outdated = self._save_top_k(trainer, candidates) if due else ""
        saved_now = self._last_global_step_saved == trainer.global_step or (due and self.save_top_k == 0)
        if saved_now or (self.save_last == "link" and self._last_checkpoint_saved):
            self._save_last(trainer, candidates)
        self._remove(trainer, outdated)

    def _save(self, trainer: Trainer, candidates: dict[str, Tensor]) -> None:
        outdated = self._save_top_k(trainer, candidates)
        self._save_last(trainer, candidates)
        self._remove(trainer, outdated)

    def _candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        """Return the metrics for file names and ranking: all logged metrics, ``epoch`` and ``step``.

        Of the monitored one, all ranks have the same value.
        """
        metrics = {name: value.detach().clone() for name, value in trainer.callback_metrics.items()}
        if self.monitor not in (None, "epoch", "step"):
            agreed = trainer.strategy.agree_on_value(self.monitor, metrics.pop(self.monitor, None))
            metrics.update({} if agreed is None else {self.monitor: agreed})
        for name, count in (("epoch", trainer.current_epoch), ("step", trainer.global_step)):
            metrics[name] = metrics[name].int() if name in metrics else torch.tensor(count)
        return metrics

    def _require_monitor(self, trainer: Trainer, candidates: dict[str, Tensor]) -> None:
        """Raise if ``monitor`` was not logged; only warn if validation has not run yet and may still log it."""
        if self.monitor is None or self.monitor in candidates:
            return
        message = missing_metric(type(self).__name__, str(self.monitor), trainer.callback_metrics)
        if self._validated or not _validation_batches(trainer):
            raise MisconfigurationException(message)
        rank_zero_warn(message)

    def _save_top_k(self, trainer: Trainer, candidates: dict[str, Tensor]) -> str:
        """Save if the metric is among the best; return the path of the checkpoint to remove, or ""."""
        if self.save_top_k == 0:
            return ""
        if self.monitor is None:
            return self._save_newest(trainer, candidates)
        self._require_monitor(trainer, candidates)
        current = candidates.get(self.monitor)
        if current is not None and self.check_monitor_top_k(trainer, current):
            return self._save_ranked(trainer, current, candidates)
        if self.verbose:
            where = f"Epoch {candidates['epoch']:d}, step {candidates['step']:d}"
            rank_zero_info(f"{where}: {self.monitor} is not among the best {self.save_top_k}.")
        return ""

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether ``current`` is among the ``save_top_k`` best values so far; the answer is the same on every rank."""
        if current is None:
            return False
        if self.save_top_k == -1 or len(self.best_k_models) < self.save_top_k:
            return True
        worst = self.best_k_models[self.kth_best_model_path]
        better = bool(current < worst if self.mode == "min" else current > worst)
        return trainer.strategy.reduce_boolean_decision(better)

    def _save_newest(self, trainer: Trainer, candidates: dict[str, Tensor]) -> str:
        previous = self.best_model_path
        path = self._free_path(trainer, candidates, self.filename, keep=previous)
        self._save_checkpoint(trainer, path, best_model_path=path)
        return previous if self.save_top_k == 1 and self._may_remove(trainer, previous, path) else ""

    def _save_ranked(self, trainer: Trainer, current: Tensor, candidates: dict[str, Tensor]) -> str:
        ranking = dict(self.best_k_models)
        replaced = self.kth_best_model_path if len(ranking) == self.save_top_k else ""
        ranking.pop(replaced, None)
        if current.isnan():  # infinity ranks last too, and can be compared
            current = torch.full_like(current, torch.inf if self.mode == "min" else -torch.inf)
        path = self._free_path(trainer, candidates, self.filename, keep=replaced)
        ranking[path] = current

        best, worst = (min, max) if self.mode == "min" else (max, min)
        top = best(ranking, key=ranking.__getitem__)
        changes: dict[str, Any] = {
            "current_score": current,
            "best_k_models": ranking,
            "best_model_path": top,
            "best_model_score": ranking[top],
        }
        if self.save_top_k in (-1, len(ranking)):
            last = worst(ranking, key=ranking.__getitem__)
            changes.update(kth_best_model_path=last, kth_value=ranking[last])
        self._save_checkpoint(trainer, path, **changes)
        if self.verbose:
            where = f"Epoch {candidates['epoch']:d}, step {candidates['step']:d}"
            rank_zero_info(f"{where}: {self.monitor} is {current:.5f} (best {ranking[top]:.5f}), saved in {path}.")
        return replaced if self._may_remove(trainer, replaced, path) else ""

    def _save_last(self, trainer: Trainer, candidates: dict[str, Tensor]) -> None:
        if not self.save_last:
            return
        previous = self.last_model_path
        path = self._last_path(trainer, candidates)
        if self.save_last == "link" and self._last_checkpoint_saved and self.save_top_k != 0:
            if trainer.is_global_zero:
                if storage.is_directory(path) and self._is_own(trainer, path):
                    self._remove(trainer, path)
                storage.link(self._last_checkpoint_saved, path)
            trainer.strategy.barrier()
            self._written.add(path)
            self.last_model_path = path
        else:
            self._save_checkpoint(trainer, path, last_model_path=path)
        if self._may_remove(trainer, previous, path):
            self._remove(trainer, previous)

    def _last_path(self, trainer: Trainer, candidates: dict[str, Tensor]) -> str:
        """Where the file of ``save_last`` goes: in the place of this run's own, or beside another run's."""
        return self._free_path(trainer, candidates, self.CHECKPOINT_NAME_LAST, keep=self.last_model_path)

    def _save_checkpoint(self, trainer: Trainer, path: str, **changes: Any) -> None:
        """Set the attributes in ``changes``, then write a checkpoint; undo the changes if writing fails.

        The attributes change first because the checkpoint contains this callback's state. It says where the file of
        ``save_last`` will be, so that a run that goes on from it finds that file to be its own.
        """
        before = {name: getattr(self, name) for name in changes}
        self.__dict__.update(changes)
        if self.save_last and "last_model_path" not in changes:
            self._coming_last = self._last_path(trainer, self._candidates(trainer))
        try:
            trainer.save_checkpoint(path, self.save_weights_only)
        except BaseException:
            self.__dict__.update(before)
            raise
        finally:
            self._coming_last = ""
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = path
        self._written.add(path)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the paths and scores of the kept checkpoints."""
        return {
            "monitor": self.monitor,
            "best_model_score": self.best_model_score,
            "best_model_path": self.best_model_path,
            "current_score": self.current_score,
            "dirpath": self.dirpath,
            "best_k_models": self.best_k_models,
            "kth_best_model_path": self.kth_best_model_path,
            "kth_value": self.kth_value,
            "last_model_path": self._coming_last or self.last_model_path,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; if the directory has changed, only ``best_model_path``."""
        self.best_model_path = state_dict["best_model_path"]
        self._last_global_step_saved, self._last_checkpoint_saved = 0, ""  # by this run
        directory = state_dict.get("dirpath", self.dirpath)
        if self.dirpath is None:  # the state of a run in another process
            self._take_dirpath(directory)
        if directory != self.dirpath:
            if self._may_save:
                rank_zero_warn(
                    f"The checkpoint directory changed from {directory!r} to {self.dirpath!r}: best_model_path is "
                    "restored, but this run neither ranks nor removes the earlier run's other checkpoints."
                )
            return
        for name in ("best_model_score", "current_score", "kth_best_model_path", "kth_value", "last_model_path"):
            setattr(self, name, state_dict.get(name, getattr(self, name)))
        self.best_k_models = dict(state_dict.get("best_k_models", self.best_k_models))
        if 0 < self.save_top_k < len(self.best_k_models):  # fewer than the run that is resumed has kept
            ranked = sorted(self.best_k_models.items(), key=lambda one: one[1], reverse=self.mode == "max")
            self.best_k_models = dict(ranked[: self.save_top_k])
            self.kth_best_model_path, self.kth_value = ranked[self.save_top_k - 1]


def _validation_batches(trainer: Trainer) -> float:
    """Return the number of batches in one validation, over all its loaders."""
    batches = trainer.num_val_batches
    return sum(batches) if isinstance(batches, list) else batches

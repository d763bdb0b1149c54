"""A fit: epochs and batches, when to validate, when to stop. One batch is in ``step.py``.

on_train_start
for each epoch:                                   run
    on_train_epoch_start
    for each batch:                               _run_epoch
        transfer to the device
        on_train_batch_start
        leyden_optimize_batch                     step.py
        step learning rates
        on_train_batch_end
        log, validate, check for a stop           _end_batch
    on_train_epoch_end                            _end_epoch
on_train_end
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from leyden.data.combined import INFINITE, CombinedLoader
from leyden.data.fetch import Fetcher
from leyden.data.hints import has_idle_processors, watched
from leyden.data.loading import DataSource, load
from leyden.data.samplers import set_sampler_epoch
from leyden.data.transfer import transfer_function
from leyden.interfaces.strategy import Strategy
from leyden.loops.evaluate import EvaluationLoop
from leyden.loops.progress import BATCH, BATCH_DONE, BATCH_END, EPOCH_END, EPOCH_START, VALIDATION_END
from leyden.loops.random_states import RandomStates
from leyden.loops.schedule import ValidationSchedule
from leyden.loops.schedulers import step_schedulers
from leyden.metrics import Results
from leyden.plugin_system.table import nothing
from leyden.utilities.exceptions import MisconfigurationException, SIGTERMException
from leyden.utilities.overriding import is_overridden
from leyden.utilities.rank_zero import rank_zero_info, rank_zero_warn
from leyden.utilities.states import RunningStage

if TYPE_CHECKING:
    from leyden.trainer import Trainer


class FitLoop:
    """Trains for epochs; ``run`` is read downwards.

    Attributes:
        loader: The training loaders, combined; None before the first fit.
        max_batches: Batches in an epoch; infinite where that is not known.
        weight: How much this process's batch counts among those of the others: 0 for one that it only repeats.
        validation: The validation within the fit.
        random_states: Those that an exact resume needs.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.results = Results(trainer, training=True)
        self.source: DataSource | None = None
        self.loader: CombinedLoader | None = None
        self.max_batches: int | float = INFINITE
        self.validation = EvaluationLoop(trainer, RunningStage.VALIDATING, within_fit=True)
        self.schedule = ValidationSchedule(trainer)
        self.fetcher: Fetcher | None = None
        self.weight = 1.0
        self.random_states = RandomStates(self)
        self._watches = False
        self._must_end: Callable[[str], str] | None = None

    @property
    def max_epochs(self) -> int | None:
        """The Trainer's ``max_epochs``; set it to train on with a second fit."""
        return self.trainer.max_epochs

    @max_epochs.setter
    def max_epochs(self, epochs: int | None) -> None:
        self.trainer.max_epochs = epochs

    def restart(self) -> None:
        """A new fit begins at the start of an epoch, whatever ended the one before."""
        self.trainer.progress.restart_epoch()
        self.results.reset()
        self.random_states = RandomStates(self)
        self.loader = self.validation.loader = None
        self.validation.seen.clear()

    def run(self) -> None:
        """Train until a limit is reached or something asks to stop."""
        trainer, hooks = self.trainer, self.trainer.hooks
        self.setup_data()
        self._watches = not trainer.barebones  # in the first epoch
        self._must_end = trainer.strategy.must_end if is_overridden("must_end", trainer.strategy, Strategy) else None
        trainer.logging.results = self.results
        if self.random_states.saved is not None and trainer.enable_validation:
            self.validation.setup_data()  # its generators and workers have their part in the random states
        if trainer.progress.phase == EPOCH_END:  # resumed from a checkpoint that was taken in on_train_epoch_end
            self.random_states.restore("now")
            self._end_epoch()
            self.random_states.saved = {"now": self.random_states.now()}  # on_train_start may draw from them
        if self._is_done() or trainer.limit_train_batches == 0:
            self.random_states.saved = None
            return
        torch.set_grad_enabled(True)
        if self.schedule.enabled and self.validation.loader is None:
            self.validation.setup_data()  # so that what is wrong with it is said now, and a progress bar knows of it
        if hooks.on_train_start is not None:
            hooks.on_train_start()
        while not self._is_done():
            self._run_epoch()
        if hooks.on_train_end is not None:
            hooks.on_train_end()

    def _run_epoch(self) -> None:
        trainer, progress = self.trainer, self.trainer.progress
        hooks, logging = trainer.hooks, trainer.logging
        batches = self._begin_epoch()
        if self._is_epoch_done():
            return self._end_epoch()
        transfer, step, configs = transfer_function(trainer, 0), trainer.step, trainer.lr_scheduler_configs
        fetcher = self.fetcher
        assert fetcher is not None
        for batch, _, _, is_last in batches:
            batch_idx = progress.batch_idx
            batch = transfer(batch)
            progress.phase = BATCH
            progress.batch_idx += 1
            progress.total_batches += 1
            progress.is_last_batch = is_last
            self.weight = fetcher.weight
            logging.start_batch(batch, counts=self.weight > 0)
            if batch is None:
                outputs = None
                self._skip_batch(batch_idx)
            elif hooks.on_train_batch_start is not nothing and hooks.on_train_batch_start(batch, batch_idx) == -1:
                progress.is_last_batch = True
                break
            else:
                outputs = hooks.leyden_optimize_batch(batch, batch_idx)
            if configs:
                self._step_learning_rates(step.accumulating, plateau=False)
            progress.phase = BATCH_END
            if hooks.on_train_batch_end is not nothing:
                hooks.on_train_batch_end(outputs, batch, batch_idx)
            self._end_batch(step.accumulating)
            if self._is_epoch_done():
                break
        else:
            self._tell_of_missing_batches()
        self._end_epoch()

    def _begin_epoch(self) -> Iterable[Any]:
        """Start an epoch, or take up the one in which a checkpoint was taken; returns the batches that are to come."""
        progress = self.trainer.progress
        self.setup_data()
        assert self.loader is not None
        for loader in self.loader.flattened:
            set_sampler_epoch(loader, progress.epoch)
        if progress.phase == EPOCH_START:
            self._start_epoch()
        elif 0 < self.max_batches <= progress.batch_idx and not progress.is_last_batch:
            progress.batch_idx = int(self.max_batches) - 1  # resumed with fewer batches: an epoch ends with its last
        is_over = progress.batch_idx > 0 and progress.is_last_batch
        batches = () if is_over else self._fetch()
        if progress.batch_idx:  # else the first batch is still to come, with which a sampler may draw its seed
            self.random_states.restore("now")
        self.random_states.saved = None
        if progress.phase in (BATCH_END, VALIDATION_END):
            self.results.epoch_ended = False
            self.results.step_kept = progress.phase == VALIDATION_END
            self._end_batch(self._accumulated())
        return batches

    def _start_epoch(self) -> None:
        trainer, progress = self.trainer, self.trainer.progress
        self.random_states.restore("now")
        self.random_states.saved = None
        progress.batch_idx, progress.is_last_batch = 0, False
        if trainer.hooks.on_train_epoch_start is not None:
            trainer.hooks.on_train_epoch_start()
        progress.phase = BATCH_DONE

    def _tell_of_missing_batches(self) -> None:
        """The batches have come to an end before the last one was known to be it."""
        trainer, count = self.trainer, self.trainer.progress.batch_idx
        said = f"{self.source} gave {count or 'no'} batches in an epoch"
        if count:
            rank_zero_warn(
                f"{said}, though there should be {self.max_batches}: what happens after an epoch's last batch, such as "
                "validation, has not happened. Mend the loader's length."
            )
        elif trainer.max_epochs == -1:
            raise MisconfigurationException(
                f"{said}, and with max_epochs=-1 the run might never end; give what can be iterated anew, or limit it."
            )
        else:
            rank_zero_warn(f"{said}; an iterator can be read only once, so give what can be iterated anew.")

    def _skip_batch(self, batch_idx: int) -> None:
        """A loader may yield None for a batch that is not to be trained on."""
        rank_zero_warn(f"The training loader gave None for batch {batch_idx}; it is skipped.")
        self.trainer.step.accumulating = self._accumulated()

    def _end_batch(self, accumulating: bool) -> None:
        """Log, validate, step on plateaus, count. A run resumed after validation does not validate again."""
        trainer, progress = self.trainer, self.trainer.progress
        if progress.phase != VALIDATION_END:
            trainer.logging.end_train_batch(accumulating)
            if self.schedule.enabled and self.schedule.is_due():
                self._validate(accumulating)
        if trainer.lr_scheduler_configs:
            self._step_learning_rates(accumulating, plateau=True)
        if not accumulating:
            progress.batches_that_stepped += 1
        progress.phase = BATCH_DONE
        self._end_if_asked()

    def _end_if_asked(self) -> None:
        reason = self.trainer.asked_to_end
        if self._must_end is not None:
            reason = self._must_end(reason)
        if reason:
            if self.trainer.hooks.on_asked_to_end is not None:
                self.trainer.hooks.on_asked_to_end(reason)
            raise SIGTERMException

    def _validate(self, accumulating: bool) -> None:
        trainer = self.trainer
        if not accumulating:
            trainer.lightning_module.on_validation_model_zero_grad()
        self.random_states.validation = self.random_states.now()
        with trainer.stage_of(RunningStage.VALIDATING):
            self.validation.run()
        self.random_states.validation = None
        trainer.progress.phase = VALIDATION_END
        self.schedule.validated_at = time.monotonic()

    def _end_epoch(self) -> None:
        """Call ``on_train_epoch_end``, step what steps per epoch, log the epoch and count it."""
        trainer, progress = self.trainer, self.trainer.progress
        if progress.phase != EPOCH_END:
            progress.phase = EPOCH_END
            trainer.logging.end_epoch()
            if trainer.hooks.on_train_epoch_end is not None:
                trainer.hooks.on_train_epoch_end()
        if trainer.lr_scheduler_configs and progress.is_last_batch:
            step_schedulers(trainer, "epoch", progress.epoch, plateau=True)
        trainer.logging.send(trainer.logging.end_epoch(), offset=-1)
        self.results.reset()
        progress.epoch += 1
        progress.batch_idx, progress.phase = 0, EPOCH_START
        self._end_if_asked()

    def _step_learning_rates(self, accumulating: bool, plateau: bool) -> None:
        progress = self.trainer.progress
        if not accumulating:
            step_schedulers(self.trainer, "step", progress.batch_idx - 1, plateau)
        if not plateau and progress.is_last_batch:
            step_schedulers(self.trainer, "epoch", progress.epoch, plateau)

    # -- when to stop -------------------------------------------------------------------------------------

    def _is_done(self) -> bool:
        trainer, progress = self.trainer, self.trainer.progress
        if self.max_batches == 0:
            rank_zero_info("Trainer.fit stopped: there are no training batches.")
        elif -1 < trainer.max_steps <= progress.optimizer_steps:
            rank_zero_info(f"`Trainer.fit` stopped: `max_steps={trainer.max_steps}` reached.")
        elif progress.phase != EPOCH_START:  # resumed within an epoch, which is to be ended first
            return False
        elif trainer.max_epochs is not None and -1 < trainer.max_epochs <= progress.epoch:
            rank_zero_info(f"`Trainer.fit` stopped: `max_epochs={trainer.max_epochs}` reached.")
        else:
            return trainer.should_stop and self.may_stop_early
        return True

    def _is_epoch_done(self) -> bool:
        trainer, progress = self.trainer, self.trainer.progress
        if progress.is_last_batch or -1 < trainer.max_steps <= progress.optimizer_steps:
            return True
        return trainer.should_stop and self._stops_now()

    @property
    def may_stop_early(self) -> bool:
        """Whether ``min_epochs`` and ``min_steps`` are behind."""
        trainer, progress = self.trainer, self.trainer.progress
        epochs = progress.epoch + (1 if progress.phase == EPOCH_END else 0)
        met_epochs = not trainer.min_epochs or epochs >= trainer.min_epochs
        return met_epochs and (not trainer.min_steps or progress.optimizer_steps >= trainer.min_steps)

    def _stops_now(self) -> bool:
        if self.may_stop_early:
            return True
        if not self._told_of_minimum:
            self._told_of_minimum = True
            rank_zero_info(
                f"Something asked to stop, but min_epochs={self.trainer.min_epochs} or min_steps="
                f"{self.trainer.min_steps} is not reached yet; training goes on."
            )
        return False

    _told_of_minimum = False

    # -- data ---------------------------------------------------------------------------------------------

    def setup_passed_data(self) -> None:
        """Set up the loaders that were passed, so that what is wrong with them is said before the sanity check."""
        if self.source is not None and self.source.given is not None:
            self.setup_data()

    def setup_data(self) -> None:
        """Ask for the training loaders, in the first epoch and whenever they are due again."""
        trainer = self.trainer
        if trainer.limit_train_batches == 0:
            return
        assert self.source is not None
        if self.loader is not None and not self.source.is_due(trainer):
            return
        loader = load(trainer, self.source, RunningStage.TRAINING, "max_size_cycle")
        if loader.mode == "sequential":
            raise ValueError('A CombinedLoader(mode="sequential") can\'t be trained on; take one of the other modes.')
        self.loader, self.fetcher = loader, trainer.strategy.agree_on_epoch(Fetcher(loader))
        self.max_batches = self.fetcher.total()
        self.schedule.plan(self.max_batches)

    def _fetch(self) -> Iterable[Any]:
        """The epoch's batches; a resumed epoch draws the same ones and passes over those that are behind."""
        trainer, random_states = self.trainer, self.random_states
        assert self.loader is not None
        assert self.fetcher is not None
        random_states.restore("epoch")
        self.loader.replay(random_states.saved["restarts"] if random_states.saved is not None else {})
        random_states.epoch = random_states.now()
        self.fetcher.start(trainer.progress.batch_idx, trainer.measure("[FitLoop].train_dataloader_next"))
        self.fetcher.read_ahead(partial(random_states.restore, "ahead"))
        watches, self._watches = self._watches and has_idle_processors(self.loader.flattened), False
        return watched(self.fetcher, self.source) if watches else self.fetcher

    def _accumulated(self) -> bool:
        """Whether the batch after which a checkpoint was taken only added to the gradients."""
        every, progress = self.trainer.accumulate_grad_batches, self.trainer.progress
        return self.trainer.step.automatic and progress.batch_idx % every != 0 and not progress.is_last_batch

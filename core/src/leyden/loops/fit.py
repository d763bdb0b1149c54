"""A fit: epochs and batches, when to validate, when to stop. One batch is in ``step.py``.

on_train_start
for each epoch:                                   run
    on_train_epoch_start                          _start_epoch
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
from collections.abc import Iterable, Mapping
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from leyden.data.combined import INFINITE, CombinedLoader
from leyden.data.fetch import Fetched, Fetcher, transfer_function
from leyden.data.loading import DataSource, load, set_epoch, take_lengths
from leyden.interfaces.strategy import Strategy
from leyden.loops.evaluate import EvaluationLoop
from leyden.loops.optimizers import step_schedulers
from leyden.loops.progress import MOVES, Phase, RandomStates
from leyden.metrics import Moment, Results
from leyden.module import LightningModule
from leyden.plugin_system.table import nothing
from leyden.utilities import rank_zero_info, rank_zero_warn
from leyden.utilities.exceptions import MisconfigurationException, SIGTERMException
from leyden.utilities.objects import forward, is_overridden
from leyden.utilities.states import RunningStage

if TYPE_CHECKING:
    from leyden.trainer.run import Run


class FitLoop:
    """Trains for epochs; ``run`` is read downwards.

    Args:
        run: The fit.
        source: Where the training loaders come from; None before a fit.
        validation_source: Where the validation loaders come from; None where there are none.

    Attributes:
        loader: The training loaders, combined; None until they are set up.
        max_batches: Batches in an epoch; infinite where that is not known.
        validation: The validation within the fit.
        random_states: The random states, for checkpoints; a resumed fit is given those of its checkpoint.
    """

    max_epochs: int | None = forward("trainer.max_epochs", "Set it to train on with a second fit.", settable=True)

    def __init__(self, run: Run, source: DataSource | None = None, validation_source: DataSource | None = None) -> None:
        self._run, self.trainer, self.progress = run, run.trainer, run.progress
        self.results = Results(run.trainer, training=True)
        self.source = source
        self.loader: CombinedLoader | None = None
        self.max_batches: int | float = INFINITE
        self.validation = EvaluationLoop(run, RunningStage.VALIDATING, validation_source, within_fit=True)
        self.schedule = ValidationSchedule(self)
        self.fetcher: Fetcher | None = None
        self.random_states = RandomStates(self)
        self._saved_place: Mapping[str, Any] | None = None
        self._told_of_minimum = self._strategy_decides = False

    @property
    def validates(self) -> bool:
        """Whether this fit validates: there is a step, a loader, and a limit above 0."""
        steps = is_overridden("validation_step", self._run.module, LightningModule)
        return self.validation.source is not None and steps and self.trainer.limit_val_batches > 0

    def run(self) -> None:
        """Train until a limit is reached or something asks to stop."""
        trainer, states, hooks = self.trainer, self.random_states, self._run.hooks
        self.setup_data()
        self._strategy_decides = is_overridden("must_end", trainer.strategy, Strategy)
        self._run.metrics.results = self.results
        if states.saved and self.validates:
            self.validation.setup_data()  # its generators and workers have their part in the random states
        if place := self._saved_place:
            self._end_iteration(place if self._is_over else place.get("ended"))
        if self.progress.phase is Phase.EPOCH_END:  # resumed from a checkpoint of on_train_epoch_end
            states.restore()
            self._end_epoch()
            states.saved = states.now()  # on_train_start may draw from them
        if not self._is_done() and trainer.limit_train_batches != 0:
            torch.set_grad_enabled(True)
            if self.schedule.enabled and self.validation.loader is None:
                self.validation.setup_data()  # what is wrong with it is said now, and a progress bar knows of it
            hooks.on_train_start()
            batches = self._take_up_epoch()
            while not self._is_done():
                self._run_epoch(self._start_epoch() if batches is None else batches)
                batches = None
            hooks.on_train_end()
        if limit := self._limit_reached():
            rank_zero_info(f"`Trainer.fit` stopped: {limit}.")

    def _run_epoch(self, batches: Iterable[Fetched]) -> None:
        run, progress, hooks, metrics = self._run, self.progress, self._run.hooks, self._run.metrics
        if self._is_epoch_done():
            return self._end_epoch()
        transfer, step, configs = transfer_function(run, 0), run.step, run.lr_scheduler_configs
        outputs: Any = None
        assert step is not None
        for batch, _, _, is_last, weight in batches:
            batch, batch_idx = transfer(batch), progress.batch_idx
            progress.phase = MOVES[progress.phase][Phase.BATCH]
            progress.batch_idx += 1
            progress.total_batches += 1
            progress.is_last_batch = is_last
            step.weight, progress.stepped = weight, batch is not None
            metrics.start_batch(batch, counts=weight > 0)
            if batch is None:  # a loader's word for a batch that is not to be trained on
                rank_zero_warn(f"The training loader gave None for batch {batch_idx}; it is skipped.")
            elif hooks.on_train_batch_start is not nothing and hooks.on_train_batch_start(batch, batch_idx) == -1:
                progress.is_last_batch, progress.stepped = True, False
                step_schedulers(run, plateau=False)
                break
            else:
                outputs = hooks.leyden_optimize_batch(batch, batch_idx)
            if configs:
                step_schedulers(run, plateau=False)
            progress.phase = MOVES[progress.phase][Phase.BATCH_END]
            if hooks.on_train_batch_end is not nothing:
                hooks.on_train_batch_end(outputs, batch, batch_idx)
            batch = outputs = None  # their memory is free for the validation and for the next batch
            self._end_batch()
            if self._is_epoch_done():
                break
        else:
            self._tell_of_missing_batches()
        self._end_epoch()

    def _start_epoch(self) -> Iterable[Fetched]:
        """Start an epoch; returns its batches."""
        self._prepare_epoch()
        self.progress.batch_idx, self.progress.is_last_batch = 0, False
        self._run.hooks.on_train_epoch_start()
        self.progress.phase = MOVES[self.progress.phase][Phase.BATCH_DONE]
        return self._fetch()

    def _take_up_epoch(self) -> Iterable[Fetched] | None:
        """Go on where the checkpoint was taken from which the fit is resumed.

        Returns:
            The batches of its epoch that are to come; None where an epoch is to be started.
        """
        progress, states, place = self.progress, self.random_states, self._saved_place
        batches: Iterable[Fetched] | None = None
        if progress.phase is not Phase.EPOCH_START:
            self._prepare_epoch()
            # an epoch of fewer batches than before still ends with its last one
            if 0 < self.max_batches <= progress.batch_idx and not progress.is_last_batch:
                progress.batch_idx, place = int(self.max_batches) - 1, None
            batches = () if self._is_over else self._fetch(place or {"fetched": progress.batch_idx})
        if progress.batch_idx or batches is None:  # else a sampler may yet draw its seed with the epoch's first batch
            states.restore()
        states.saved, self._saved_place = {}, None
        if progress.phase in (Phase.BATCH_END, Phase.VALIDATION_END):
            self.results.moment = Moment.STEP_KEPT if progress.phase is Phase.VALIDATION_END else Moment.STEP
            self._end_batch()
        return batches

    def _prepare_epoch(self) -> None:
        self.setup_data()
        assert self.loader is not None
        for loader in self.loader.flattened:
            set_epoch(loader, self.progress.epoch)
        self._take_lengths(self.loader)

    @property
    def _is_over(self) -> bool:
        """Whether no batch of the epoch that ran last is to come."""
        progress = self.progress
        if progress.phase in (Phase.EPOCH_END, Phase.EPOCH_START):
            return True
        return progress.phase is not Phase.BATCH and progress.batch_idx > 0 and progress.is_last_batch

    def _tell_of_missing_batches(self) -> None:
        """Say that the loader has ended before the batch that should have been its last."""
        count = self.progress.batch_idx
        said = f"{self.source} gave {count or 'no'} batches in an epoch"
        advice = "an iterator can be read only once, so give what can be iterated anew"
        if count:
            missed = "what follows an epoch's last batch, such as validation, is missed. Mend the loader's length"
            rank_zero_warn(f"{said}, though there should be {self.max_batches}: {missed}.")
        elif self.trainer.max_epochs == -1:
            raise MisconfigurationException(f"{said}, and with max_epochs=-1 the run might never end; {advice}.")
        else:
            rank_zero_warn(f"{said}; {advice}.")

    def _end_batch(self) -> None:
        """Log, validate, step on plateaus, count. A run resumed after validation does not validate again."""
        run, progress = self._run, self.progress
        if progress.phase is not Phase.VALIDATION_END:
            run.metrics.end_train_batch()
            if self.schedule.enabled and self.schedule.is_due():
                self._validate()
        if run.lr_scheduler_configs:
            step_schedulers(run, plateau=True)
        progress.batches_that_stepped += progress.stepped
        progress.phase = MOVES[progress.phase][Phase.BATCH_DONE]
        if run.asked_to_end or self._strategy_decides:
            self._end_if_asked()

    def _end_if_asked(self) -> None:
        if reason := self.trainer.strategy.must_end(self._run.asked_to_end):
            self._run.hooks.on_asked_to_end(reason)
            raise SIGTERMException

    def _validate(self) -> None:
        if not self.progress.is_accumulating(self.trainer.accumulate_grad_batches):
            self._run.module.on_validation_model_zero_grad()
        self.random_states.validation = self.random_states.now()
        self.progress.plateaus = dict.fromkeys(range(len(self._run.lr_scheduler_configs)), True)
        with self._run.stage_of(RunningStage.VALIDATING):
            self.validation.run()
        self.random_states.validation = None
        self.schedule.validated_at = time.monotonic()

    def _end_epoch(self) -> None:
        """Call ``on_train_epoch_end``, step what steps per epoch, log the epoch and count it."""
        run, progress, metrics = self._run, self.progress, self._run.metrics
        if progress.phase is not Phase.EPOCH_END:
            progress.phase = MOVES[progress.phase][Phase.EPOCH_END]
            metrics.end_epoch()
            run.hooks.on_train_epoch_end()
        step_schedulers(run, plateau=True, epoch_is_over=True)
        metrics.send(metrics.end_epoch(), offset=-1)
        self.results.reset()
        progress.epoch += 1
        progress.batch_idx = 0
        progress.phase = MOVES[progress.phase][Phase.EPOCH_START]
        if run.should_stop and not self.may_stop_early and not self._told_of_minimum:
            self._told_of_minimum = True
            minimum = f"min_epochs={self.trainer.min_epochs} or min_steps={self.trainer.min_steps}"
            rank_zero_info(f"Something asked to stop, but {minimum} is not reached yet; training goes on.")
        self._end_if_asked()

    # -- when to stop -------------------------------------------------------------------------------------

    def _limit_reached(self) -> str:
        """What ends the fit now, other than a request to stop; "" if nothing does."""
        trainer, progress = self.trainer, self.progress
        if self.max_batches == 0:
            return "there are no training batches"
        if -1 < trainer.max_steps <= progress.optimizer_steps:
            return f"`max_steps={trainer.max_steps}` reached"
        between_epochs = progress.phase is Phase.EPOCH_START
        if between_epochs and trainer.max_epochs is not None and -1 < trainer.max_epochs <= progress.epoch:
            return f"`max_epochs={trainer.max_epochs}` reached"
        return ""

    def _is_done(self) -> bool:
        """Whether no batch is to come; a fit that was resumed within an epoch ends that first."""
        stops = self.progress.phase is Phase.EPOCH_START and self._run.should_stop and self.may_stop_early
        return stops or bool(self._limit_reached())

    def _is_epoch_done(self) -> bool:
        progress = self.progress
        is_over = progress.is_last_batch or -1 < self.trainer.max_steps <= progress.optimizer_steps
        return is_over or (self._run.should_stop and self.may_stop_early)

    @property
    def may_stop_early(self) -> bool:
        """Whether ``min_epochs`` and ``min_steps`` are behind."""
        trainer, progress = self.trainer, self.progress
        epochs = progress.epoch + (progress.phase is Phase.EPOCH_END)
        return epochs >= (trainer.min_epochs or 0) and progress.optimizer_steps >= (trainer.min_steps or 0)

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
        self._take_lengths(loader)
        self.schedule.check(self.max_batches)

    def _take_lengths(self, loader: CombinedLoader) -> None:
        """Ask how many batches the next epoch has, which may be another number than in the last."""
        assert self.fetcher is not None
        take_lengths(self.trainer, loader, RunningStage.TRAINING)
        self.max_batches = self.fetcher.plan()
        self.schedule.plan(self.max_batches)

    def _fetch(self, place: Mapping[str, Any] | None = None) -> Iterable[Fetched]:
        """The epoch's batches, of a resumed epoch those that are to come."""
        fetcher = self.fetcher
        assert fetcher is not None
        fetcher.start(place, self._run.timer("[FitLoop].train_dataloader_next"))
        wrapped = self._run.hooks.leyden_wrap_batches(fetcher)
        return fetcher if wrapped is None else wrapped

    def _end_iteration(self, place: Mapping[str, Any] | None) -> None:
        """Bring loaders that keep their own state to the end of an epoch that was over in the run that is resumed."""
        fetcher = self.fetcher
        if place and place["has_state"] and fetcher is not None:
            fetcher.start(place)
            for _ in islice(fetcher, place["again"]):
                pass

    # -- for checkpoints ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a fit that is resumed exactly needs of this one, in this process."""
        place = self._saved_place  # until a resumed fit has come so far
        if place is None and self.fetcher is not None:
            place = self.fetcher.state_dict(again=self.progress.phase is Phase.BATCH, over=self._is_over)
        return {
            "progress": self.progress.state_dict(),
            "place": place,
            "random_states": self.random_states.state_dict(),
            "results": self.results.state_dict(),
            "loaded_in": getattr(self.source, "loaded_in", None),
            "validation": self.validation.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned, or only its "progress" where that is all there is.

        ``run`` goes on from there.
        """
        self.progress.load_state_dict(state["progress"])
        self.random_states.saved, self._saved_place = state.get("random_states", {}), state.get("place")
        if "results" in state:
            self.results.load_state_dict(state["results"])
            self.validation.load_state_dict(state["validation"])
            if self.source is not None:
                self.source.loaded_in = state["loaded_in"]


class ValidationSchedule:
    """When a fit validates: ``val_check_interval`` and ``check_val_every_n_epoch`` made into a question per batch.

    Attributes:
        enabled: Whether the fit validates at all.
        every: Training batches between validations; infinite for the end of the epoch only.
        validated_at: When the last validation ended, in seconds of ``time.monotonic``.
    """

    def __init__(self, loop: FitLoop) -> None:
        self._run, self._loop, self.trainer = loop._run, loop, loop.trainer
        self.enabled = False
        self.every: int | float = INFINITE
        self.validated_at = 0.0

    def plan(self, max_batches: int | float) -> None:
        """Work out the interval for an epoch of ``max_batches``."""
        interval = self.trainer.val_check_interval
        self.enabled = self._loop.validates
        self.every = interval if isinstance(interval, int) else INFINITE
        if isinstance(interval, float) and max_batches != INFINITE:
            self.every = max(1, int(max_batches * interval))

    def check(self, max_batches: int | float) -> None:
        """Refuse an interval that can't be, for the first epoch of new loaders; time is counted from now."""
        interval, by_epoch = self.trainer.val_check_interval, self.trainer.check_val_every_n_epoch is not None
        self.validated_at = time.monotonic()
        if not self.enabled:
            return
        if isinstance(interval, float) and interval != 1.0 and max_batches == INFINITE:
            raise MisconfigurationException(
                f"val_check_interval={interval} is a fraction, but the training loader has no length; write a "
                "number of batches, a time, or 1.0 for the end of the epoch."
            )
        if INFINITE > self.every > max_batches > 0 and by_epoch:
            raise ValueError(
                f"val_check_interval={interval} is more than the {max_batches} training batches of an epoch; write "
                "a smaller one, or check_val_every_n_epoch=None to count batches across epochs."
            )

    def is_due(self) -> bool:
        """Whether to validate now, after a batch."""
        trainer, progress = self.trainer, self._loop.progress
        every_epochs, interval = trainer.check_val_every_n_epoch, trainer.val_check_interval
        if not self.enabled or (every_epochs is not None and (progress.epoch + 1) % every_epochs):
            return False
        if self._run.should_stop and self._loop.may_stop_early:
            return True
        if isinstance(interval, timedelta):
            return time.monotonic() - self.validated_at >= interval.total_seconds()
        # the epoch may end before its limit, where a loader has no length
        if self.every == INFINITE or (isinstance(interval, float) and interval == 1.0):
            return progress.is_last_batch
        return (progress.total_batches if every_epochs is None else progress.batch_idx) % self.every == 0

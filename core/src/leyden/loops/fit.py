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
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from leyden.data.combined import INFINITE, CombinedLoader
from leyden.data.fetch import Fetched, Fetcher
from leyden.data.loading import DataSource, load
from leyden.data.samplers import set_epoch
from leyden.data.transfer import transfer_function
from leyden.interfaces.strategy import Strategy
from leyden.loops.evaluate import EvaluationLoop
from leyden.loops.progress import MOVES, Phase
from leyden.loops.resume import RandomStates, Resumption
from leyden.loops.schedule import ValidationSchedule
from leyden.loops.schedulers import step_schedulers
from leyden.loops.step import BatchStep
from leyden.metrics import Moment, Results
from leyden.module import LightningModule
from leyden.plugin_system.table import nothing
from leyden.utilities.exceptions import MisconfigurationException, SIGTERMException
from leyden.utilities.objects import is_overridden
from leyden.utilities.rank_zero import rank_zero_info, rank_zero_warn
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
        resumption: What a resumed fit takes from its checkpoint; None in a fit from the start, and once it is taken.
    """

    def __init__(self, run: Run, source: DataSource | None = None, validation_source: DataSource | None = None) -> None:
        self._run, self.trainer, self.progress = run, run.trainer, run.progress
        self.results = Results(run.trainer, training=True)
        self.source = source
        self.loader: CombinedLoader | None = None
        self.max_batches: int | float = INFINITE
        self.validation = EvaluationLoop(run, RunningStage.VALIDATING, validation_source, within_fit=True)
        self.schedule = ValidationSchedule(run, self)
        self.fetcher: Fetcher | None = None
        self.random_states = RandomStates(self)
        self.resumption: Resumption | None = None
        self._told_of_minimum = False
        self._must_end: Callable[[str], str] | None = None

    @property
    def max_epochs(self) -> int | None:
        """The Trainer's ``max_epochs``; set it to train on with a second fit."""
        return self.trainer.max_epochs

    @max_epochs.setter
    def max_epochs(self, epochs: int | None) -> None:
        self.trainer.max_epochs = epochs

    @property
    def _step(self) -> BatchStep:
        assert self._run.step is not None
        return self._run.step

    @property
    def validates(self) -> bool:
        """Whether this fit validates: there is a step, a loader, and a limit above 0."""
        steps = is_overridden("validation_step", self._run.module, LightningModule)
        return self.validation.source is not None and steps and self.trainer.limit_val_batches > 0

    def run(self) -> None:
        """Train until a limit is reached or something asks to stop."""
        trainer, progress, hooks = self.trainer, self.progress, self._run.hooks
        self.setup_data()
        self._must_end = trainer.strategy.must_end if is_overridden("must_end", trainer.strategy, Strategy) else None
        self._run.metrics.results = self.results
        if self.resumption is not None and self.validates:
            self.validation.setup_data()  # its generators and workers have their part in the random states
        if progress.phase is Phase.EPOCH_END and self.resumption is not None:  # taken in on_train_epoch_end
            self.resumption.restore("now")
            self._end_epoch()
            self.resumption.hold()  # on_train_start may draw from them
        if self._is_done() or trainer.limit_train_batches == 0:
            return
        torch.set_grad_enabled(True)
        if self.schedule.enabled and self.validation.loader is None:
            self.validation.setup_data()  # so that what is wrong with it is said now, and a progress bar knows of it
        hooks.on_train_start()
        batches = self._take_up_epoch()
        while not self._is_done():
            self._run_epoch(self._start_epoch() if batches is None else batches)
            batches = None
        hooks.on_train_end()

    def _run_epoch(self, batches: Iterable[Fetched]) -> None:
        run, progress, hooks, metrics = self._run, self.progress, self._run.hooks, self._run.metrics
        if self._is_epoch_done():
            return self._end_epoch()
        transfer, step, configs = transfer_function(run, 0), self._step, run.lr_scheduler_configs
        for batch, _, _, is_last, weight in batches:
            batch, batch_idx = transfer(batch), progress.batch_idx
            progress.phase = MOVES[progress.phase][Phase.BATCH]
            progress.batch_idx += 1
            progress.total_batches += 1
            progress.is_last_batch = is_last
            step.weight = weight
            metrics.start_batch(batch, counts=weight > 0)
            outputs = None
            if batch is None:
                self._skip_batch(batch_idx)
            elif hooks.on_train_batch_start is not nothing and hooks.on_train_batch_start(batch, batch_idx) == -1:
                progress.is_last_batch = True
                break
            else:
                outputs = hooks.leyden_optimize_batch(batch, batch_idx)
            if configs:
                self._step_learning_rates(step.accumulating, plateau=False)
            progress.phase = MOVES[progress.phase][Phase.BATCH_END]
            if hooks.on_train_batch_end is not nothing:
                hooks.on_train_batch_end(outputs, batch, batch_idx)
            self._end_batch(step.accumulating)
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
        resumption, self.resumption = self.resumption, None
        if resumption is None:
            return None
        progress = self.progress
        if progress.phase is Phase.EPOCH_START:
            resumption.restore("now")
            return None
        self._prepare_epoch()
        if 0 < self.max_batches <= progress.batch_idx and not progress.is_last_batch:
            progress.batch_idx = int(self.max_batches) - 1  # resumed with fewer batches: an epoch ends with its last
        is_over = progress.batch_idx > 0 and progress.is_last_batch
        batches = () if is_over else self._fetch(resumption)
        if progress.batch_idx:  # else the first batch is still to come, with which a sampler may draw its seed
            resumption.restore("now")
        if progress.phase in (Phase.BATCH_END, Phase.VALIDATION_END):
            self.results.moment = Moment.STEP_KEPT if progress.phase is Phase.VALIDATION_END else Moment.STEP
            self._end_batch(self._accumulated())
        return batches

    def _prepare_epoch(self) -> None:
        self.setup_data()
        assert self.loader is not None
        for loader in self.loader.flattened:
            set_epoch(loader, self.progress.epoch)

    def _tell_of_missing_batches(self) -> None:
        """The batches have come to an end before the last one was known to be it."""
        trainer, count = self.trainer, self.progress.batch_idx
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
        """Pass over a batch; a loader yields None for one that is not to be trained on."""
        rank_zero_warn(f"The training loader gave None for batch {batch_idx}; it is skipped.")
        self._step.accumulating = self._accumulated()

    def _end_batch(self, accumulating: bool) -> None:
        """Log, validate, step on plateaus, count. A run resumed after validation does not validate again."""
        run, progress = self._run, self.progress
        if progress.phase is not Phase.VALIDATION_END:
            run.metrics.end_train_batch(accumulating)
            if self.schedule.enabled and self.schedule.is_due():
                self._validate(accumulating)
        if run.lr_scheduler_configs:
            self._step_learning_rates(accumulating, plateau=True)
        if not accumulating:
            progress.batches_that_stepped += 1
        progress.phase = MOVES[progress.phase][Phase.BATCH_DONE]
        if run.asked_to_end or self._must_end is not None:
            self._end_if_asked()

    def _end_if_asked(self) -> None:
        reason = self._run.asked_to_end
        if self._must_end is not None:
            reason = self._must_end(reason)
        if reason:
            self._run.hooks.on_asked_to_end(reason)
            raise SIGTERMException

    def _validate(self, accumulating: bool) -> None:
        if not accumulating:
            self._run.module.on_validation_model_zero_grad()
        self.random_states.validation = self.random_states.now()
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
        if run.lr_scheduler_configs and progress.is_last_batch:
            step_schedulers(run, "epoch", progress.epoch, plateau=True)
        metrics.send(metrics.end_epoch(), offset=-1)
        self.results.reset()
        progress.epoch += 1
        progress.batch_idx = 0
        progress.phase = MOVES[progress.phase][Phase.EPOCH_START]
        self._end_if_asked()

    def _step_learning_rates(self, accumulating: bool, plateau: bool) -> None:
        progress = self.progress
        if not accumulating:
            step_schedulers(self._run, "step", progress.batch_idx - 1, plateau)
        if not plateau and progress.is_last_batch:
            step_schedulers(self._run, "epoch", progress.epoch, plateau)

    # -- when to stop -------------------------------------------------------------------------------------

    def _is_done(self) -> bool:
        trainer, progress = self.trainer, self.progress
        if self.max_batches == 0:
            rank_zero_info("Trainer.fit stopped: there are no training batches.")
        elif -1 < trainer.max_steps <= progress.optimizer_steps:
            rank_zero_info(f"`Trainer.fit` stopped: `max_steps={trainer.max_steps}` reached.")
        elif progress.phase is not Phase.EPOCH_START:  # resumed within an epoch, which is to be ended first
            return False
        elif trainer.max_epochs is not None and -1 < trainer.max_epochs <= progress.epoch:
            rank_zero_info(f"`Trainer.fit` stopped: `max_epochs={trainer.max_epochs}` reached.")
        else:
            return self._run.should_stop and self.may_stop_early
        return True

    def _is_epoch_done(self) -> bool:
        progress = self.progress
        if progress.is_last_batch or -1 < self.trainer.max_steps <= progress.optimizer_steps:
            return True
        return self._run.should_stop and self._stops_now()

    @property
    def may_stop_early(self) -> bool:
        """Whether ``min_epochs`` and ``min_steps`` are behind."""
        trainer, progress = self.trainer, self.progress
        epochs = progress.epoch + (1 if progress.phase is Phase.EPOCH_END else 0)
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

    def _fetch(self, resumption: Resumption | None = None) -> Iterable[Fetched]:
        """The epoch's batches; a resumed epoch draws the same ones and passes over those that are behind."""
        assert self.loader is not None
        assert self.fetcher is not None
        if resumption is not None:
            resumption.restore("epoch")
        self.loader.replay(resumption.restarts if resumption is not None else {})
        self.random_states.epoch = self.random_states.now()
        self.fetcher.start(self.progress.batch_idx, self._run.timer("[FitLoop].train_dataloader_next"))
        self.fetcher.read_ahead(lambda: resumption.restore("ahead") if resumption is not None else None)
        wrapped = self._run.hooks.leyden_wrap_batches(self.fetcher)
        return self.fetcher if wrapped is None else wrapped

    def _accumulated(self) -> bool:
        """Whether the batch after which a checkpoint was taken only added to the gradients."""
        every, progress = self.trainer.accumulate_grad_batches, self.progress
        return self._step.automatic and progress.batch_idx % every != 0 and not progress.is_last_batch

    # -- for checkpoints ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a fit that is resumed exactly needs of this one, in this process."""
        return {
            "progress": self.progress.state_dict(),
            "random_states": self.random_states.state_dict(),
            "results": self.results.state_dict(),
            "source": self.source.state_dict() if self.source is not None else None,
            "validation": self.validation.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned, or only its "progress" where that is all there is.

        ``run`` goes on from there.
        """
        self.progress.load_state_dict(state["progress"])
        self.resumption = Resumption(self.random_states, dict(state.get("random_states", {})))
        if "results" in state:
            self.results.load_state_dict(state["results"])
            self.validation.load_state_dict(state["validation"])
            if self.source is not None and state["source"] is not None:
                self.source.load_state_dict(state["source"])

"""A run is an object: what is refused changes nothing, and what a run has is not the next one's."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch

import leyden as pl
from leyden import hookimpl
from leyden.loops.progress import MOVES, Phase
from leyden.strategies import Strategy
from leyden.utilities import MisconfigurationException
from leyden.utilities.objects import StashKey
from leyden_testing.models import SmallModel
from leyden_testing.training import quiet_trainer


class Batches:
    """Some batches of ones."""

    def __init__(self, count: int = 2) -> None:
        self.count = count

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter(torch.ones(self.count, 3, 2))


class NoStep(pl.LightningModule):
    """A model that can't be fitted."""


def test_a_refused_fit_leaves_everything_as_it_was(tmp_path):
    model, trainer = SmallModel(), quiet_trainer(tmp_path, max_epochs=None, max_steps=2)
    trainer.fit(model, Batches())
    run, before = trainer.run, (trainer.global_step, trainer.state.fn, trainer.state.status, trainer.max_epochs)
    for refused, loaders in ((NoStep(), Batches()), (SmallModel(), None), (SmallModel(), 3), (object(), Batches())):
        with pytest.raises((MisconfigurationException, TypeError)):
            trainer.fit(refused, loaders)
        with suppress(RuntimeError):
            assert getattr(refused, "trainer", None) is None
    with pytest.raises(FileNotFoundError):
        trainer.fit(SmallModel(), Batches(), ckpt_path=tmp_path / "none.ckpt")
    assert trainer.lightning_module is model
    assert trainer.run is run
    assert (trainer.global_step, trainer.state.fn, trainer.state.status, trainer.max_epochs) == before


def test_a_refused_first_fit_leaves_no_trace(tmp_path):
    trainer = quiet_trainer(tmp_path, max_epochs=None)
    with pytest.raises(MisconfigurationException):
        trainer.fit(NoStep(), Batches())
    assert (trainer.lightning_module, trainer.state.fn, trainer.max_epochs) == (None, None, None)


def test_a_refused_fit_within_a_fit_does_not_cancel_its_stop(tmp_path):
    class Nesting(SmallModel):
        def on_train_batch_start(self, batch, batch_idx):
            self.trainer.should_stop = True
            with pytest.raises(MisconfigurationException, match="was called within"):
                self.trainer.fit(SmallModel(), Batches())

    model, trainer = Nesting(), quiet_trainer(tmp_path, max_epochs=5)
    trainer.fit(model, Batches(4))
    assert trainer.lightning_module is model
    assert trainer.global_step == 1


def test_each_fit_is_told_that_its_minimum_keeps_it_going(tmp_path, caplog):
    class Stopping(SmallModel):
        def on_train_batch_start(self, batch, batch_idx):
            self.trainer.should_stop = True

    trainer = quiet_trainer(tmp_path, max_epochs=2, min_epochs=2)
    for fits in (1, 2):
        trainer.fit(Stopping(), Batches())
        assert caplog.text.count("Something asked to stop, but min_epochs") == fits
        trainer.max_epochs, trainer.min_epochs = 4, 4


def test_a_fit_says_once_which_limit_ended_it(tmp_path, caplog):
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(SmallModel(), Batches())
    assert caplog.text.count("stopped: ") == caplog.text.count("`Trainer.fit` stopped: `max_epochs=2` reached.") == 1
    trainer.fit(SmallModel(), Batches())  # which has nothing left to do
    assert caplog.text.count("`Trainer.fit` stopped: `max_epochs=2` reached.") == 2


def test_a_minimum_that_is_met_before_the_epoch_ends_is_not_worth_a_word(tmp_path, caplog):
    class Stopping(SmallModel):
        def on_train_batch_start(self, batch, batch_idx):
            self.trainer.should_stop = True

    trainer = quiet_trainer(tmp_path, max_epochs=2, min_steps=3)
    trainer.fit(Stopping(), Batches(4))
    assert trainer.current_epoch == 1
    assert "asked to stop" not in caplog.text


def test_a_second_fit_counts_on_and_an_evaluation_shows_the_counters_of_the_fit(tmp_path):
    model, trainer = SmallModel(), quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(model, Batches())
    fit = trainer.run
    trainer.predict(model, Batches())
    assert trainer.run is not fit
    assert (trainer.global_step, trainer.current_epoch) == (2, 1)
    assert trainer.optimizers == fit.optimizers != []
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, Batches())
    assert (trainer.global_step, trainer.current_epoch) == (4, 2)
    assert trainer.run.metrics is not fit.metrics


def test_optimizer_states_are_saved_after_an_evaluation_too(tmp_path):
    model, trainer = SmallModel(), quiet_trainer(tmp_path)
    trainer.fit(model, Batches())
    trainer.predict(model, Batches(), return_predictions=False)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert len(torch.load(tmp_path / "after.ckpt", weights_only=True)["optimizer_states"]) == 1


SEEN = StashKey[list[int]]()
OTHER = StashKey[str]()


class Stashing(pl.Callback):
    """Keeps its state with the run."""

    def on_train_start(self, trainer, pl_module):
        assert SEEN not in trainer.run.stash
        trainer.run.stash[SEEN] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        trainer.run.stash[SEEN].append(batch_idx)


def test_a_stash_belongs_to_its_run(tmp_path):
    trainer = quiet_trainer(tmp_path, callbacks=Stashing())
    trainer.fit(SmallModel(), Batches())
    first = trainer.run.stash
    trainer.fit_loop.max_epochs = 2
    trainer.fit(SmallModel(), Batches(1))
    assert (first[SEEN], trainer.run.stash[SEEN]) == ([0, 1], [0])
    assert first.get(OTHER, "none") == "none"
    assert first.pop(SEEN, []) == [0, 1]
    assert SEEN not in first
    with pytest.raises(KeyError):
        first[OTHER]


def test_the_loop_goes_from_a_phase_only_to_those_that_may_follow_it():
    allowed = {(here, there) for here in Phase for there in MOVES[here]}
    assert (Phase.BATCH, Phase.BATCH_END) in allowed
    for here in Phase:
        for there in Phase:
            if (here, there) in allowed:
                assert MOVES[here][there] is there
            else:
                with pytest.raises(RuntimeError, match=f"can't go from '{here.value}' to '{there.value}'"):
                    MOVES[here][there]


class LogsAfterError(SmallModel):
    """Logs where an error of a step was caught."""

    def on_train_batch_start(self, batch, batch_idx):
        raise ArithmeticError


def test_the_scope_of_logging_ends_with_an_error(tmp_path):
    model, trainer = LogsAfterError(), quiet_trainer(tmp_path)
    with pytest.raises(ArithmeticError):
        trainer.fit(model, Batches())
    with pytest.raises(MisconfigurationException, match="can't be called outside of a loop"):
        model.log("late", 1.0)
    assert trainer.run.metrics.hook is None


def test_a_stage_ends_with_an_error(tmp_path):
    seen = []

    class Failing(SmallModel):
        def on_validation_start(self):
            raise ArithmeticError

        def validation_step(self, batch, batch_idx):
            return None

    class Looking(pl.Callback):
        def on_exception(self, trainer, pl_module, exception):
            seen.append(trainer.state.stage)

    trainer = quiet_trainer(tmp_path, callbacks=Looking())
    with pytest.raises(ArithmeticError):
        trainer.fit(Failing(), Batches(), Batches())
    assert seen == ["train"]
    assert trainer.state.stage is None


def test_rank_0_decides_which_checkpoint_is_loaded(tmp_path):
    """Where a name such as "last" is looked up in the file system, the ranks of two nodes may find different ones."""

    sent = []

    class Second(Strategy):
        def broadcast(self, value, src=0):
            sent.append(value)
            return path if len(sent) == 1 else value

    first = quiet_trainer(tmp_path)
    first.fit(SmallModel(), Batches())
    first.save_checkpoint(path := str(tmp_path / "a.ckpt"))
    trainer = quiet_trainer(tmp_path, strategy=Second(), max_epochs=2)
    trainer.fit(SmallModel(), Batches())
    assert (trainer.ckpt_path, trainer.global_step) == (path, 2 * first.global_step)
    assert sent[0] is None


@pytest.mark.parametrize(("name", "calls"), [("found", ["found"]), ("a.ckpt", [])])
def test_plugins_are_told_of_a_run_that_goes_on(tmp_path, monkeypatch, name, calls):
    monkeypatch.chdir(tmp_path)
    told = []

    class Finding:
        @hookimpl
        def leyden_find_checkpoint(self, ckpt_path):
            return str(tmp_path / "a.ckpt") if ckpt_path == "found" else None

        @hookimpl
        def leyden_go_on(self, trainer, checkpoint):
            assert trainer.run.log_dir is None
            told.append((trainer.state.fn.value, checkpoint["global_step"]))

    first = quiet_trainer(tmp_path)
    first.fit(SmallModel(), Batches())
    first.save_checkpoint("a.ckpt")
    trainer = quiet_trainer(tmp_path, max_epochs=2, plugins=[Finding()])
    trainer.fit(SmallModel(), Batches(), ckpt_path=name)
    trainer.predict(SmallModel(), Batches(), ckpt_path=name)
    assert told == [("fit", first.global_step) for _ in calls]

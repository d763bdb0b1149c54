"""Callbacks that ``setup`` adds to ``trainer.callbacks`` take part in the run from then on, as in Lightning."""

import pytest

import leyden as pl
from leyden import hookimpl
from leyden_testing.models import LoggingModel, rows
from leyden_testing.training import quiet_trainer


class Noting(pl.Callback):
    """Writes down which of its hooks are called."""

    def __init__(self):
        self.calls = []

    def setup(self, trainer, pl_module, stage):
        self.calls.append(f"setup {stage}")

    def on_fit_start(self, trainer, pl_module):
        self.calls.append("fit start")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.calls.append(f"batch {batch_idx}")

    def teardown(self, trainer, pl_module, stage):
        self.calls.append(f"teardown {stage}")


class Saving(Noting):
    """One that wants to be the last."""

    role = "checkpoint"


EVERYTHING = ["setup fit", "fit start", "batch 0", "batch 1", "teardown fit"]


def adds(owner, *callbacks):
    """An owner whose ``setup`` adds callbacks, the first time."""

    def setup(*arguments):
        trainer = arguments[0] if isinstance(owner, pl.Callback) else owner.trainer
        trainer.callbacks.extend(callback for callback in callbacks if callback not in trainer.callbacks)

    if isinstance(owner, pl.Callback):
        owner.setup = lambda trainer, pl_module, stage: setup(trainer)
    else:
        owner.setup = lambda stage: setup(stage)
    return owner


@pytest.mark.parametrize("who", ["module", "datamodule", "callback"])
def test_whoever_adds_one(tmp_path, who):
    """In Lightning one that the module adds misses its own setup, whose turn is over then; here none does."""
    added, data = Noting(), pl.LightningDataModule()
    data.train_dataloader = lambda: rows(2)
    model, callback = LoggingModel(), pl.Callback()
    adds({"module": model, "datamodule": data, "callback": callback}[who], added)
    trainer = quiet_trainer(tmp_path, callbacks=[callback])
    trainer.fit(model, datamodule=data)
    assert added.calls == EVERYTHING
    assert added in trainer.callbacks


def test_one_that_was_added_adds_another(tmp_path):
    second = Noting()
    first = adds(Noting(), second)
    trainer = quiet_trainer(tmp_path)
    trainer.fit(adds(LoggingModel(), first), rows(2))
    assert first.calls == EVERYTHING[1:]
    assert second.calls == EVERYTHING


def test_it_stays_for_the_next_run(tmp_path):
    added, model = Noting(), LoggingModel()
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(adds(model, added), rows(2))
    added.calls.clear()
    trainer.test(model, rows(1), verbose=False)
    assert added.calls == ["setup test", "teardown test"]


def test_checkpoints_are_still_last(tmp_path):
    saving, added, model = Saving(), Noting(), LoggingModel()
    trainer = quiet_trainer(tmp_path, callbacks=[saving], enable_checkpointing=True)
    trainer.fit(adds(model, added), rows(2))
    assert trainer.callbacks == [added, saving]


def test_one_that_is_taken_away_is_not_called_any_more(tmp_path):
    noting, model = Noting(), LoggingModel()
    model.setup = lambda stage: model.trainer.callbacks.remove(noting)
    quiet_trainer(tmp_path, callbacks=[noting]).fit(model, rows(2))
    assert noting.calls == ["setup fit"]


def test_a_plugin_that_joined_the_run_before_stays(tmp_path):
    seen = []

    class Late:
        @hookimpl
        def on_train_batch_end(self, batch_idx):
            seen.append(batch_idx)

    model, added = LoggingModel(), Noting()

    def setup(stage):
        model.trainer.hooks.register(Late())
        model.trainer.callbacks.append(added)

    model.setup = setup
    quiet_trainer(tmp_path).fit(model, rows(2))
    assert seen == [0, 1]
    assert added.calls == EVERYTHING


def test_a_setup_that_takes_fewer_arguments(tmp_path):
    class Short(pl.Callback):
        def setup(self, trainer):
            self.trainer = trainer

    added = Short()
    trainer = quiet_trainer(tmp_path)
    trainer.fit(adds(LoggingModel(), added), rows(1))
    assert added.trainer is trainer

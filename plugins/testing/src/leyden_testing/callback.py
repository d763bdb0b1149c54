"""Conformance of a callback: its hooks are ones, its state is data, and a resumed run with it is exact."""

from __future__ import annotations

import copy
import difflib
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden as pl
from leyden.callbacks import Callback
from leyden.plugins import ROLES, RUN_HOOKS, Participant, discover
from leyden.utilities.plain import to_plain
from leyden_testing.component import TrainerPartConformance
from leyden_testing.training import Model, SaveAmid, rows, same, weights


class CallbackConformance(TrainerPartConformance):
    """The checks of a callback; its name is that of its class.

    Example::

        class TestEarlyStopping(CallbackConformance):
            @pytest.fixture
            def name(self):
                return "EarlyStopping"

            @pytest.fixture
            def arguments(self):
                return {"monitor": "val_loss"}
    """

    kind = "callback"
    interface = Callback

    @pytest.fixture
    def trainer_options(self) -> dict[str, Any]:
        """Arguments that a Trainer with the callback needs beside it; none by default."""
        return {}

    @pytest.fixture(autouse=True)
    def _options(self, trainer_options: dict[str, Any]) -> None:
        self.options = trainer_options

    def trainer_arguments(self, value: Any) -> dict[str, Any]:
        """A list of one callback; the switch of its role is left open."""
        target = value
        if isinstance(value, str) and discover().named(self.kind, value):
            target = discover().component(self.kind, value).load()
        switch = ROLES.get(getattr(target, "role", None) or "")
        return {"callbacks": [value], **({switch: None} if switch else {}), **self.options}

    def held_by(self, trainer: pl.Trainer) -> Any:
        """The first callback."""
        return trainer.callbacks[0]

    # -- hooks ----------------------------------------------------------------------------------------------

    def test_its_hooks_take_what_hooks_offer(self, part: Any) -> None:
        """Each hook that it overrides takes arguments that the hook has."""
        participant = Participant(part, Callback)
        for hook in RUN_HOOKS:
            participant.implementation(hook)

    def test_no_method_misspells_a_hook(self, part: Any) -> None:
        """A method named almost as a hook would never be called."""
        own = [m for m in dir(type(part)) if not m.startswith("_") and not hasattr(Callback, m)]
        for method in own:
            if method not in RUN_HOOKS and callable(getattr(type(part), method)):
                near = difflib.get_close_matches(method, RUN_HOOKS, n=1, cutoff=0.85)
                assert not near, f"{method} is no hook and never called; {near[0]} is one"

    # -- state ----------------------------------------------------------------------------------------------

    def test_its_state_key_tells_it_from_others(self, part: Any, name: str, arguments: dict[str, Any]) -> None:
        """The key is a text that depends on the class and the arguments alone, not on the instance or a run."""
        assert isinstance(part.state_key, str)
        assert part.state_key
        assert discover().build(self.kind, name, **arguments).state_key == part.state_key
        assert copy.deepcopy(part).state_key == part.state_key

    def test_its_state_is_data_and_can_be_put_back(
        self, part: Any, name: str, arguments: dict[str, Any], tmp_path: Path
    ) -> None:
        """After a run its state is plain data, is that in the checkpoint, and a new instance takes it over."""
        trainer, model = self.trainer(tmp_path, part), Model()
        trainer.fit(model, rows(), rows(8))
        state = copy.deepcopy(part.state_dict())
        dropped: list[str] = []
        to_plain(state, "", dropped)
        assert dropped == [], f"the state is no plain data: {dropped}"
        trainer.save_checkpoint(str(tmp_path / "whole.ckpt"))
        kept = torch.load(tmp_path / "whole.ckpt", weights_only=True)["callbacks"]
        if state:
            assert kept.keys() & {part.state_key}, f"the checkpoint has no state of {part.state_key!r}"
        other = discover().build(self.kind, name, **arguments)
        other.load_state_dict(copy.deepcopy(kept.get(part.state_key, state)))
        assert other.state_dict().keys() == state.keys()

    def test_a_resumed_run_is_the_uninterrupted_one(
        self, part: Any, name: str, arguments: dict[str, Any], tmp_path: Path
    ) -> None:
        """A run resumed from amid an epoch ends with the bits of the one that ran through, dropout included."""
        saved, whole, resumed = SaveAmid(tmp_path / "amid.ckpt"), Model(dropout=0.5), Model(dropout=0.5)
        self.seed()
        trainer = self.trainer(tmp_path, part)
        trainer.callbacks.insert(1, saved)
        trainer.fit(whole, rows(), rows(8))
        pl.seed_everything(8, verbose=False)
        later = self.trainer(tmp_path, discover().build(self.kind, name, **arguments))
        with warnings.catch_warnings():  # it may say that it finds the files of the first run
            warnings.simplefilter("ignore", UserWarning)
            later.fit(resumed, rows(), rows(8), ckpt_path=saved.path)
        assert (trainer.global_step, trainer.current_epoch) == (later.global_step, later.current_epoch)
        assert same(weights(resumed), weights(whole))

    # -- runs -----------------------------------------------------------------------------------------------

    def test_every_stage_runs_without_a_fit(self, part: Any, tmp_path: Path) -> None:
        """Validation, test and prediction alone, and a fit without validation, work with it."""
        model = Model()
        self.trainer(tmp_path, part).validate(model, rows(8), verbose=False)
        self.trainer(tmp_path, part).test(model, rows(8), verbose=False)
        assert len(self.trainer(tmp_path, part).predict(model, rows(8)) or []) == 2

    def test_a_dry_run_works(self, part: Any, tmp_path: Path) -> None:
        """``fast_dev_run`` trains one batch with it."""
        trainer = self.trainer(tmp_path, part, fast_dev_run=True)
        trainer.fit(Model(), rows(), rows(8))
        assert trainer.global_step == 1

    def test_it_goes_to_other_processes(self, part: Any) -> None:
        """It can be copied and pickled, as strategies that start processes do."""
        for copied in (copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
            assert type(copied) is type(part)
            assert copied.state_dict().keys() == part.state_dict().keys()

"""Checks of a callback: its hooks exist, its state is plain data, and a resumed run with it is exact."""

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
    """The checks of a callback; the component's name is that of its class.

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
        """Further arguments that a Trainer with the callback needs; none by default."""
        return {}

    @pytest.fixture(autouse=True)
    def _options(self, trainer_options: dict[str, Any]) -> None:
        self.options = trainer_options

    def trainer_arguments(self, value: Any) -> dict[str, Any]:
        """Return a list with the callback; if it has a role, the argument that turns off its default is not set."""
        target = value
        if isinstance(value, str) and discover().named(self.kind, value):
            target = discover().component(self.kind, value).load()
        switch = ROLES.get(getattr(target, "role", None) or "")
        return {"callbacks": [value], **({switch: None} if switch else {}), **self.options}

    def part_of(self, trainer: pl.Trainer) -> Any:
        """Return the Trainer's first callback."""
        return trainer.callbacks[0]

    # -- hooks ----------------------------------------------------------------------------------------------

    def test_its_hooks_take_what_hooks_offer(self, part: Any) -> None:
        """Each hook that it overrides takes arguments that the hook has."""
        participant = Participant(part, Callback)
        for hook in RUN_HOOKS:
            participant.implementation(hook)

    def test_no_method_misspells_a_hook(self, part: Any) -> None:
        """No method has a name that is almost a hook's, since it would never be called."""
        own = [m for m in dir(type(part)) if not m.startswith("_") and not hasattr(Callback, m)]
        for method in own:
            if method not in RUN_HOOKS and callable(getattr(type(part), method)):
                near = difflib.get_close_matches(method, RUN_HOOKS, n=1, cutoff=0.85)
                assert not near, f"{method} is not a hook and is never called; did you mean {near[0]}?"

    # -- state ----------------------------------------------------------------------------------------------

    def test_its_state_key_depends_on_class_and_arguments(
        self, part: Any, name: str, arguments: dict[str, Any]
    ) -> None:
        """The key is a text that depends only on the class and the arguments, not on the instance or a run."""
        assert isinstance(part.state_key, str)
        assert part.state_key
        assert discover().build(self.kind, name, **arguments).state_key == part.state_key
        assert copy.deepcopy(part).state_key == part.state_key

    def test_its_state_is_plain_data_and_can_be_restored(
        self, part: Any, name: str, arguments: dict[str, Any], tmp_path: Path
    ) -> None:
        """After a run the state is plain data and in the checkpoint, and a new instance can load it."""
        trainer, model = self.trainer(tmp_path, part), Model()
        trainer.fit(model, rows(), rows(8))
        state = copy.deepcopy(part.state_dict())
        dropped: list[str] = []
        to_plain(state, "", dropped)
        assert dropped == [], f"the state is not plain data: {dropped}"
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
        """A run resumed in the middle of an epoch ends with the same bits as the uninterrupted one, with dropout."""
        saved, whole, resumed = SaveAmid(tmp_path / "amid.ckpt"), Model(dropout=0.5), Model(dropout=0.5)
        self.seed()
        trainer = self.trainer(tmp_path, part)
        trainer.callbacks.insert(1, saved)
        trainer.fit(whole, rows(), rows(8))
        pl.seed_everything(8, verbose=False)
        later = self.trainer(tmp_path, discover().build(self.kind, name, **arguments))
        with warnings.catch_warnings():  # it may warn that it found the files of the first run
            warnings.simplefilter("ignore", UserWarning)
            later.fit(resumed, rows(), rows(8), ckpt_path=saved.path)
        assert (trainer.global_step, trainer.current_epoch) == (later.global_step, later.current_epoch)
        assert same(weights(resumed), weights(whole))

    # -- runs -----------------------------------------------------------------------------------------------

    def test_every_stage_runs_without_a_fit(self, part: Any, tmp_path: Path) -> None:
        """Validation, testing and prediction without a fit work with it."""
        model = Model()
        self.trainer(tmp_path, part).validate(model, rows(8), verbose=False)
        self.trainer(tmp_path, part).test(model, rows(8), verbose=False)
        assert len(self.trainer(tmp_path, part).predict(model, rows(8)) or []) == 2

    def test_a_dry_run_works(self, part: Any, tmp_path: Path) -> None:
        """``fast_dev_run`` works with it and trains on one batch."""
        trainer = self.trainer(tmp_path, part, fast_dev_run=True)
        trainer.fit(Model(), rows(), rows(8))
        assert trainer.global_step == 1

    def test_it_can_be_copied_to_other_processes(self, part: Any) -> None:
        """It can be copied and pickled, as strategies that start processes need."""
        for copied in (copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
            assert type(copied) is type(part)
            assert copied.state_dict().keys() == part.state_dict().keys()

"""LambdaCallback: functions as hooks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import leyden
from leyden.callbacks import LambdaCallback
from leyden.utilities import MisconfigurationException
from leyden_testing.training import quiet_trainer

HOOKS = [name for name in dir(leyden.Callback) if name.startswith("on_")] + ["setup", "teardown"]


def fits(root: Path, small: Any, callback: leyden.Callback) -> None:
    small.fit(leyden, root, [callback])


def evaluates(root: Path, small: Any, callback: leyden.Callback) -> None:
    quiet_trainer(root, callbacks=[callback]).test(small.make_model(leyden), small.make_loader(1), verbose=False)


def predicts(root: Path, small: Any, callback: leyden.Callback) -> None:
    quiet_trainer(root, callbacks=[callback]).predict(small.make_model(leyden), small.make_loader(1))


def goes_on(root: Path, small: Any, callback: leyden.Callback) -> None:
    path = small.fit(leyden, root, []).trainer.checkpoint_callback.best_model_path
    with pytest.warns(UserWarning, match="not empty"):
        small.fit(leyden, root, [callback], max_epochs=3, ckpt_path=path)


def fails(root: Path, small: Any, callback: leyden.Callback) -> None:
    failed = small.fit(leyden, root, [callback], model=small.make_model(leyden, fail_at=0))
    assert isinstance(failed.error, ArithmeticError)


def is_asked_to_end(root: Path, small: Any, callback: leyden.Callback) -> None:
    def ask(trainer: leyden.Trainer, *_: Any) -> None:
        trainer.asked_to_end = "maintenance"

    with pytest.raises(SystemExit):
        small.fit(leyden, root, [LambdaCallback(on_fit_start=ask), callback])


# The runs in which hooks are called that others don't call, by a pattern of the hooks' names; the last has all others.
RUNS = {
    "on_test_.*": evaluates,
    "on_predict_.*": predicts,
    "on_load_checkpoint": goes_on,
    "on_exception": fails,
    "on_asked_to_end": is_asked_to_end,
    ".*": fits,
}


@pytest.mark.parametrize("pattern", RUNS)
def test_every_hook_of_callbacks_is_called(tmp_path: Path, small: Any, pattern: str) -> None:
    own = {name for name in HOOKS if next(p for p in RUNS if re.fullmatch(p, name)) == pattern}
    called: set[str] = set()

    def note(name: str) -> Any:
        return lambda *_: called.add(name)

    RUNS[pattern](tmp_path, small, LambdaCallback(**{name: note(name) for name in HOOKS}))
    assert own
    assert own <= called


def test_functions_get_what_the_hook_gives(tmp_path: Path, small: Any) -> None:
    seen: list[Any] = []
    callback = LambdaCallback(
        on_train_epoch_end=lambda trainer, module: seen.append((trainer.current_epoch, type(module).__name__)),
        on_train_batch_end=lambda t, m, outputs, batch, i: seen.append((sorted(outputs), tuple(batch.shape), i)),
        on_fit_end=None,
    )
    small.fit(leyden, tmp_path, [callback], max_epochs=1, limit_train_batches=1)
    assert seen == [(["loss"], (2, 4), 0), (0, "Model")]


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ({"on_train_epoch_ends": print}, "did you mean 'on_train_epoch_end'"),
        ({"state_dict": print}, "the hooks are setup, "),
        ({"on_fit_end": 3}, r"on_fit_end=3\) needs a function"),
    ],
)
def test_what_is_no_hook_is_refused(hooks: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        LambdaCallback(**hooks)

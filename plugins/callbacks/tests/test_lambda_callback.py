"""LambdaCallback: functions as hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import leyden
from leyden.callbacks import LambdaCallback
from leyden.utilities import MisconfigurationException


def test_every_hook_of_callbacks_is_called(tmp_path: Path, small: Any) -> None:
    names = [name for name in dir(leyden.Callback) if name.startswith("on_")] + ["setup", "teardown"]
    called: set[str] = set()

    def note(name: str) -> Any:
        return lambda *_: called.add(name)

    def ask(trainer: leyden.Trainer, *_: Any) -> None:
        trainer.asked_to_end = "maintenance"

    callback = LambdaCallback(**{name: note(name) for name in names})
    model = small.make_model(leyden)
    trainer = small.fit(leyden, tmp_path, [callback], model=model).trainer
    trainer.test(model, small.make_loader(1), verbose=False)
    trainer.predict(model, small.make_loader(1))
    path = trainer.checkpoint_callback.best_model_path
    with pytest.warns(UserWarning, match="not empty"):
        failed = small.fit(
            leyden, tmp_path, [callback], model=small.make_model(leyden, fail_at=0), max_epochs=3, ckpt_path=path
        )
    assert isinstance(failed.error, ArithmeticError)
    ending = [LambdaCallback(on_fit_start=ask, on_asked_to_end=note("on_asked_to_end"))]
    with pytest.raises(SystemExit):
        small.fit(leyden, tmp_path / "asked", ending)
    assert called == set(names)


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

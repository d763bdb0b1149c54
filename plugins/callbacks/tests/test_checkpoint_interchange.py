"""A run that is resumed in the other framework, Leyden or Lightning, continues just as in its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint, Timer

FIRST, THEN = [3.0, 2.0], [2.5, 1.0, 4.0, 5.0, 6.0, 7.0]


def callbacks(library: Any, lightning: Any, directory: Path) -> list[Any]:
    kinds: Any = (ModelCheckpoint, EarlyStopping, Timer)
    if library is lightning:
        kinds = (lightning.callbacks.ModelCheckpoint, lightning.callbacks.EarlyStopping, lightning.callbacks.Timer)
    return [
        kinds[1]("score", patience=3),
        kinds[2]({"hours": 1}),
        kinds[0](directory, monitor="score", save_top_k=2, save_last=True),
        kinds[0](directory, every_n_train_steps=5, save_top_k=-1, filename="{step}-by-steps"),
    ]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty:UserWarning")
@pytest.mark.parametrize("begins", ["leyden", "pytorch_lightning"])
def test_resumed_in_either(begins: str, tmp_path: Path, lightning: Any, small: Any) -> None:
    libraries = {"leyden": leyden, "pytorch_lightning": lightning}
    seen = {}
    for ends, library in libraries.items():
        directory = tmp_path / "kept"  # the same for both, since it is a part of the state
        first = libraries[begins]
        small.fit(first, tmp_path, callbacks(first, lightning, directory), model=small.make_model(first, FIRST))
        resumed = callbacks(library, lightning, directory)
        result = small.fit(
            library, tmp_path, resumed, model=small.make_model(library, THEN), max_epochs=8,
            ckpt_path=directory / "last.ckpt",
        )  # fmt: skip
        states = [small.plain(callback.state_dict()) for callback in resumed]
        states[0].pop("stopping_reason_message")
        seen[ends] = {
            "files": sorted(path.name for path in directory.iterdir()),
            "written": result.written,
            "counters": (result.trainer.current_epoch, result.trainer.global_step),
            "states": [states[0], states[2], states[3]],
            "weights": {name: value.tolist() for name, value in result.model.state_dict().items()},
        }
        assert resumed[1].time_elapsed() > 0
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
    assert seen["leyden"] == seen["pytorch_lightning"]
    assert seen["leyden"]["counters"] == (7, 42)
    assert torch.tensor(seen["leyden"]["states"][0]["best_score"]) == 1.0

"""Decisions that all ranks must make alike. There is one process; its strategy answers for the other rank."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint, Timer
from leyden.strategies import Strategy


class Paired(Strategy):
    """Rank 0 of two; the other rank's vote is ``vote``."""

    vote = False

    @property
    def world_size(self) -> int:
        return 2

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        return (decision and self.vote) if all else (decision or self.vote)


class Second(Paired):
    """Rank 1 of two; ``sent`` has what rank 0 broadcasts, by the value's type."""

    def __init__(self, sent: dict[type, Any]) -> None:
        super().__init__()
        self.sent = sent

    @property
    def global_rank(self) -> int:
        return 1

    def broadcast(self, value: Any, src: int = 0) -> Any:
        return self.sent.get(type(value), value)


@pytest.mark.parametrize(("vote", "epochs"), [(False, 3), (True, 1)])
def test_all_stop_when_one_wants_to(tmp_path: Path, small: Any, vote: bool, epochs: int) -> None:
    strategy = Paired()
    strategy.vote = vote
    stopping = EarlyStopping("score")
    trainer = small.fit(
        leyden, tmp_path, [stopping], model=small.make_model(leyden, [3.0, 2.0, 1.0]), max_epochs=3, strategy=strategy,
        enable_checkpointing=False,
    ).trainer  # fmt: skip
    assert trainer.current_epoch == epochs


@pytest.mark.parametrize(("vote", "kept"), [(False, "epoch=0-step=6.ckpt"), (True, "epoch=1-step=12.ckpt")])
def test_a_checkpoint_replaces_another_when_all_agree(tmp_path: Path, small: Any, vote: bool, kept: str) -> None:
    strategy = Paired()
    strategy.vote = vote
    checkpoint = ModelCheckpoint(tmp_path / "kept", monitor="score")
    model = small.make_model(leyden, [2.0, 1.0])
    small.fit(leyden, tmp_path, [checkpoint], model=model, strategy=strategy)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [kept]


def test_rank_zero_chooses_the_path_and_alone_writes(tmp_path: Path, small: Any) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "kept", monitor="score", filename="{score:.1f}")
    strategy = Second({str: "the path that rank 0 chose"})
    small.fit(leyden, tmp_path, [checkpoint], model=small.make_model(leyden, [2.0, 1.0]), strategy=strategy)
    assert checkpoint.best_model_path == "the path that rank 0 chose"
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(("due", "saves"), [(True, 6), (False, 0)])
def test_rank_zero_says_when_the_interval_is_over(tmp_path: Path, small: Any, due: bool, saves: int) -> None:
    interval = timedelta(days=1) if due else timedelta(0)
    checkpoint = ModelCheckpoint(tmp_path / "kept", train_time_interval=interval)
    written = small.fit(leyden, tmp_path, [checkpoint], max_epochs=1, strategy=Second({bool: due})).written
    assert len(written) == saves


@pytest.mark.parametrize(("up", "steps"), [(True, 0), (False, 6)])
def test_rank_zero_says_when_the_time_is_up(tmp_path: Path, small: Any, up: bool, steps: int) -> None:
    timer = Timer(timedelta(0) if not up else timedelta(days=1), verbose=False)
    trainer = small.fit(
        leyden, tmp_path, [timer], max_epochs=1, strategy=Second({bool: up}), enable_checkpointing=False
    ).trainer
    assert trainer.global_step == steps


def test_ranks_speak_with_their_number(tmp_path: Path, small: Any, said: list[str]) -> None:
    for quiet in (True, False):
        stopping = EarlyStopping("score", verbose=True, log_rank_zero_only=quiet)
        model = small.make_model(leyden, [1.0])
        small.fit(
            leyden, tmp_path, [stopping], model=model, max_epochs=1, strategy=Second({}), enable_checkpointing=False
        )
    assert [line for line in said if "improved" in line] == ["[rank: 1] score improved to 1.000."]

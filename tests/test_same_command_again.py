"""The same script run again after a kill: it finds the run, goes on in it, and ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.callbacks import ModelCheckpoint
from leyden.loggers import CSVLogger, TensorBoardLogger
from leyden_testing.forking import Forked
from leyden_testing.models import ValidatedModel, rows
from leyden_testing.training import quiet_trainer


class Model(ValidatedModel):
    """Logs its loss by step and by epoch, and kills its process, or all of its session, in a step.

    Args:
        dies_at: The step; None for never.
    """

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        torch.nn.init.normal_(self.layer.weight)
        self.dies_at, self.steps = dies_at, 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_step == self.dies_at and self.global_rank == 0:
            for logger in self.loggers:
                logger.save()
            os.killpg(0, signal.SIGKILL)
        self.steps += 1
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss


def script(root: Path, checkpoint: Any, dies_at: int | None = None, **options: Any) -> Callable[[], None]:
    """What is run again and again: a fit of 3 epochs of 4 steps with ``ckpt_path="last"``."""

    def run() -> None:
        warnings.resetwarnings()
        callbacks = [ModelCheckpoint(**checkpoint)]
        trainer = quiet_trainer(
            root, logger=[TensorBoardLogger(root), CSVLogger(root)], callbacks=callbacks, max_epochs=3,
            enable_checkpointing=True, log_every_n_steps=1, **options,
        )  # fmt: skip
        model = Model(dies_at)
        trainer.fit(model, rows(4 * trainer.world_size), rows(1), ckpt_path="last")
        print(f"took {model.steps} steps in {trainer.log_dir}")
        torch.save(model.state_dict(), root / "weights.pt")

    return run


def run_again(function: Callable[[], None], output: Path) -> tuple[int, str]:
    process = Forked(function, output)
    return process.wait(), process.said


def curves(root: Path) -> tuple[str, dict[str, set[tuple[int, float]]]]:
    """The text of ``metrics.csv``, and the points of the curves that TensorBoard draws."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (version,) = (root / "lightning_logs").iterdir()
    events = EventAccumulator(str(version)).Reload()
    scalars = {tag: {(one.step, one.value) for one in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    return (version / "metrics.csv").read_text(), scalars


CHECKPOINTS: dict[str, dict[str, Any]] = {
    "last": {"save_last": True, "every_n_train_steps": 3},
    "link": {"save_last": "link", "monitor": "val_loss"},
    "newest": {},
    "directory": {"dirpath": "kept", "save_last": True, "every_n_train_steps": 3},
}
PAIR = {"devices": 2, "strategy": "ddp_fork"}


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in CHECKPOINTS), ("last", PAIR)],
    ids=[*CHECKPOINTS, "two processes"],
)
def test_a_killed_run_goes_on_in_its_own_directory(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """In Lightning it starts anew in another version, unless ``dirpath`` was given, and then its curves do."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    given = [{**CHECKPOINTS[name]} for _ in range(2)]
    for root, checkpoint in zip((whole, killed), given, strict=True):
        root.mkdir()
        if "dirpath" in checkpoint:
            checkpoint["dirpath"] = root / "kept"
    code, said = run_again(script(whole, given[0], **options), tmp_path / "said-0")
    assert code == 0, said
    code, said = run_again(script(killed, given[1], dies_at=7, **options), tmp_path / "said-1")
    assert code == -signal.SIGKILL
    code, said = run_again(script(killed, given[1], **options), tmp_path / "said-2")
    assert code == 0, said
    assert 'ckpt_path="last" is ' in said
    assert f"steps in {killed}/lightning_logs/version_0" in said
    assert curves(killed) == curves(whole)
    assert all(map(torch.equal, *(torch.load(root / "weights.pt").values() for root in (killed, whole))))
    code, said = run_again(script(killed, given[1], **options), tmp_path / "said-3")
    assert (code, "took 0 steps" in said, "`max_epochs=3` reached" in said) == (0, True, True)
    assert curves(killed) == curves(whole)


def fit(root: Path, epochs: int, version: Any = None, **arguments: Any) -> Any:
    """A short fit with a logger that chooses its version unless one is given."""
    options = {"max_epochs": epochs, "enable_checkpointing": True, "log_every_n_steps": 1}
    trainer = quiet_trainer(root, logger=CSVLogger(root, version=version), **options)
    trainer.fit(Model(), rows(), rows(1), **arguments)
    return trainer


@pytest.mark.parametrize(
    ("version", "name", "epochs", "goes_on_in"),
    [
        (None, "last", 2, "version_0"),
        (None, "hpc", 2, "version_0"),
        (None, "by its path", 2, "version_1"),
        (7, "by its path", 2, "version_7"),
    ],
)
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty", "ignore:The checkpoint directory changed")
def test_a_run_goes_on_where_a_checkpoint_was_found_by_a_name(
    tmp_path: Path, version: Any, name: str, epochs: int, goes_on_in: str
) -> None:
    """A checkpoint that is given by its path may be the beginning of a run of its own, as in Lightning."""
    first = fit(tmp_path, 1)
    first.save_checkpoint(tmp_path / "hpc_ckpt_1.ckpt")
    path = first.checkpoint_callback.best_model_path
    again = fit(tmp_path, epochs, version, ckpt_path=path if name == "by its path" else name)
    assert Path(again.log_dir).name == goes_on_in
    assert again.lightning_module.steps == 4
    assert (Path(again.log_dir) / "checkpoints" / "epoch=1-step=8.ckpt").is_file()


def test_a_run_that_is_named_begins_when_it_has_no_checkpoint(tmp_path: Path) -> None:
    fit(tmp_path, 1)
    with pytest.warns(UserWarning, match="no last checkpoint was found"):
        assert fit(tmp_path, 2, "mine", ckpt_path="last").lightning_module.steps == 8


def test_a_test_of_the_best_in_a_new_process_leaves_the_logs_of_the_fit(tmp_path: Path) -> None:
    first = fit(tmp_path, 2)
    before = (Path(first.log_dir) / "metrics.csv").read_text()
    again = quiet_trainer(tmp_path, logger=CSVLogger(tmp_path), enable_checkpointing=True)
    again.validate(Model(), rows(1), ckpt_path="best", verbose=False)
    assert again.ckpt_path == first.checkpoint_callback.best_model_path
    assert (Path(first.log_dir) / "metrics.csv").read_text() == before
    assert Path(again.log_dir).name == "version_1"


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty", "ignore:.*no last checkpoint was found")
def test_what_was_logged_before_any_row_was_in_the_checkpoint_is_logged_again(tmp_path: Path) -> None:
    """No warning says that the rows are another run's."""

    class ByEpoch(ValidatedModel):
        fails_at: int | None = None

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.global_step == self.fails_at:
                raise ArithmeticError
            self.log("loss", (loss := self.loss(batch)), on_epoch=True, on_step=False)
            return loss

    def run(root: Path, fails_at: int | None = None) -> str:
        trainer = quiet_trainer(root, logger=CSVLogger(root), max_epochs=2, enable_checkpointing=True)
        torch.manual_seed(0)
        model = ByEpoch()
        model.fails_at = fails_at
        with pytest.raises(ArithmeticError) if fails_at is not None else nullcontext():
            trainer.fit(model, rows(), rows(1), ckpt_path="last")
        return (Path(trainer.log_dir) / "metrics.csv").read_text()

    whole = run(tmp_path / "whole")
    assert len(whole.splitlines()) > len(run(tmp_path / "killed", fails_at=5).splitlines()) > 1
    assert run(tmp_path / "killed") == whole
    assert len(list((tmp_path / "killed" / "lightning_logs").iterdir())) == 1

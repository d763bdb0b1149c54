"""Checkpoints in Lightning and Leyden: what either writes, the other goes on from."""

from __future__ import annotations

import importlib
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import leyden as pl
from leyden.utilities import MisconfigurationException
from leyden_testing.models import rows
from leyden_testing.training import quiet_trainer, same_weights

MOMENTS = [("on_train_batch_end", 7), ("on_validation_end", 10), ("on_train_epoch_end", 10), ("on_train_end", 15)]


def twin(library: Any, manual: bool = False) -> tuple[Any, Any]:
    """The same model and callback for either framework; without random numbers, which Lightning does not keep."""

    class Model(library.LightningModule):
        def __init__(self, width: int = 3) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.automatic_optimization = not manual
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 2)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = nn.functional.mse_loss(self.layer(batch[0]), batch[1])
            if manual:
                self.optimizers().zero_grad()
                self.manual_backward(loss)
                self.optimizers().step()
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("loss", nn.functional.mse_loss(self.layer(batch[0]), batch[1]))

        test_step = validation_step

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    class SaveOnce(library.Callback):
        def __init__(self, path: Path, hook: str, step: int) -> None:
            def save(trainer: Any, *args: Any) -> None:
                if trainer.global_step == step:
                    trainer.save_checkpoint(path)

            setattr(self, hook, save)

    return Model, SaveOnce


def trainer_of(library: Any, root: Path, **options: Any) -> Any:
    return quiet_trainer(root, library.Trainer, **{"max_epochs": 3, "devices": 1, **options})


def train(
    name: str,
    root: Path,
    moment: tuple[str, int] = ("on_fit_end", -1),
    ckpt_path: Any = None,
    manual: bool = False,
    validates: bool = False,
) -> tuple[Any, Any]:
    """Train for three epochs of five batches, and save ``root/middle.ckpt`` in a hook after a step."""
    with warnings.catch_warnings():
        if name != "leyden" or manual:  # which leaves the scheduler to the model
            warnings.simplefilter("ignore")
        library = importlib.import_module(name)
        Model, SaveOnce = twin(library, manual)
        model = Model()
        options: dict[str, Any] = {} if validates else {"limit_val_batches": 0}
        trainer = trainer_of(library, root, callbacks=[SaveOnce(root / "middle.ckpt", *moment)], **options)
        trainer.fit(model, rows(5), rows(2), ckpt_path=ckpt_path)
    return model, trainer


@pytest.mark.parametrize("moment", [MOMENTS[0], *MOMENTS[2:]], ids=str)
@pytest.mark.parametrize(("writer", "reader"), [("pytorch_lightning", "leyden"), ("leyden", "pytorch_lightning")])
def test_training_goes_on_in_the_other(tmp_path, writer, reader, moment):
    whole, _ = train(writer, tmp_path, moment)
    if reader != "leyden":  # it starts the loader over when it goes on in the middle of an epoch, with its own too
        (tmp_path / "own").mkdir()
        train(reader, tmp_path / "own", moment)
        whole, _ = train(reader, tmp_path, ckpt_path=tmp_path / "own" / "middle.ckpt")
    model, trainer = train(reader, tmp_path, ckpt_path=tmp_path / "middle.ckpt")
    assert (trainer.current_epoch, trainer.global_step) == (3, 15)
    assert same_weights(model, whole)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**15)


def flat(values: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested dicts by their paths; an empty one is a leaf."""
    if not isinstance(values, dict) or not values:
        return {path: values}
    return {key: leaf for name, value in values.items() for key, leaf in flat(value, f"{path}/{name}").items()}


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_checkpoint_says_of_its_place_what_lightning_s_says(tmp_path, moment, manual):
    written = []
    for name in ("leyden", "pytorch_lightning"):
        (tmp_path / name).mkdir()
        train(name, tmp_path / name, moment, manual=manual, validates=True)
        written.append(flat(torch.load(tmp_path / name / "middle.ckpt", weights_only=True)["loops"]))
    ours, theirs = written
    assert ours.keys() == theirs.keys()
    # what Lightning does not read: the steps of the epoch, and the batches of a validation that is over
    unread = r"(optim|scheduler)\w*/.*current/|val_loop"
    if moment[0] == "on_train_end":  # between epochs, where Lightning leaves the counts of the last one standing
        unread += r"|batch_progress/current/"
    assert {path: ours[path] for path in ours if not re.search(unread, path)} == {
        path: theirs[path] for path in theirs if not re.search(unread, path)
    }


@pytest.mark.parametrize(("writer", "reader"), [("pytorch_lightning", "leyden"), ("leyden", "pytorch_lightning")])
def test_weights_alone_are_evaluated_and_loaded_in_the_other_and_no_fit_goes_on_from_them(tmp_path, writer, reader):
    path = tmp_path / "weights.ckpt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained, trainer = train(writer, tmp_path)
        trainer.save_checkpoint(path, weights_only=True)
        library = importlib.import_module(reader)
        Model, _ = twin(library)
        model = Model()
        trainer_of(library, tmp_path).test(model, rows(2), ckpt_path=path, verbose=False)
        for loaded in (model, Model.load_from_checkpoint(path)):
            assert same_weights(loaded, trained)
        with pytest.raises(Exception, match=r"weights alone|contains only the model"):
            trainer_of(library, tmp_path).fit(Model(), rows(5), ckpt_path=path)


def test_the_place_is_there_for_the_hooks_of_others(tmp_path):
    """As in Lightning, where it is the first thing that a checkpoint gets."""

    class Model(twin(pl)[0]):  # type: ignore[misc]
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["mine"] = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"]

    trainer = trainer_of(pl, tmp_path, max_epochs=2, limit_val_batches=0)
    trainer.fit(Model(), rows(5), rows(2))
    for weights_only in (False, True):
        trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=weights_only)
        assert torch.load(tmp_path / "a.ckpt", weights_only=True)["mine"] == 2


@pytest.mark.parametrize("missing", ["loops", "fit_loop", "epoch_progress"])
def test_a_layout_that_lightning_had_before_is_refused_with_the_way_out(tmp_path, missing):
    train("leyden", tmp_path, ("on_train_epoch_end", 10))
    saved = torch.load(tmp_path / "middle.ckpt", weights_only=True)
    del saved["leyden"]
    saved["pytorch-lightning_version"] = "1.4.9"
    place = {"loops": saved, "fit_loop": saved["loops"], "epoch_progress": saved["loops"]["fit_loop"]}[missing]
    del place[missing]
    torch.save(saved, tmp_path / "old.ckpt")
    with pytest.raises(
        MisconfigurationException, match=rf"Lightning 1\.4\.9: it lacks the key '{missing}'.*upgrade_checkp"
    ):
        train("leyden", tmp_path, ckpt_path=tmp_path / "old.ckpt")
    old, middle = (twin(pl)[0].load_from_checkpoint(tmp_path / f"{name}.ckpt") for name in ("old", "middle"))
    assert same_weights(old, middle)

"""A resumed run's ``metrics.csv``: the rows from before the checkpoint stay, and what follows is there once."""

import shutil

import pytest
import torch

import leyden as pl
from leyden_csv.logger import CSVLogger
from leyden_testing.models import ValidatedModel, rows
from leyden_testing.training import quiet_trainer

HOOKS = ["on_train_batch_end", "on_validation_end", "on_train_epoch_end", "on_train_epoch_start", "on_validation_start"]


class Model(ValidatedModel):
    """Logs by step and by epoch; a metric of its own comes with the second epoch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        torch.nn.init.normal_(self.layer.weight)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        if self.current_epoch:
            self.log("later", float(self.global_step))
        return loss


class SaveAt(pl.Callback):
    """Saves a checkpoint at each call of one hook."""

    def __init__(self, directory, hook):
        self.directory, self.saved = directory, []
        setattr(self, hook, self.save)

    def save(self, trainer, *args):
        self.saved.append(self.directory / f"{len(self.saved)}.ckpt")
        trainer.save_checkpoint(self.saved[-1])


def trainer_for(root, version, *callbacks):
    return quiet_trainer(
        root, logger=CSVLogger(root, version=version), log_every_n_steps=2, max_epochs=2, callbacks=list(callbacks),
        val_check_interval=2, num_sanity_val_steps=0,
    )  # fmt: skip


def metrics_of(root, version):
    return root / "lightning_logs" / version / "metrics.csv"


@pytest.mark.parametrize("hook", HOOKS)
def test_the_file_is_that_of_a_run_without_interruption(tmp_path, hook):
    """pytorch-lightning deletes the file. The killed run had logged on for any time after its checkpoint."""
    saver = SaveAt(tmp_path, hook)
    trainer_for(tmp_path, "whole", saver).fit(Model(), rows(4), rows(1))
    whole = metrics_of(tmp_path, "whole").read_text()
    assert len(whole.splitlines()) > 8
    logs = [torch.load(path)["leyden"]["ranks"][0]["plugins"]["logfiles"]["CSVLogger"][0] for path in saver.saved]
    with_rows = [path for path, state in zip(saver.saved, logs, strict=True) if state["log"]]
    assert len(with_rows) >= len(saver.saved) - 2  # nothing was logged before the first step that is
    for path in with_rows:
        killed = metrics_of(tmp_path, path.stem)
        killed.parent.mkdir()
        shutil.copy(metrics_of(tmp_path, "whole"), killed)
        trainer_for(tmp_path, path.stem).fit(Model(), rows(4), rows(1), ckpt_path=path)
        assert killed.read_text() == whole, path


def test_in_the_same_process_and_into_another_version(tmp_path):
    saver = SaveAt(tmp_path, "on_validation_end")
    trainer = trainer_for(tmp_path, "same", saver)
    trainer.fit(Model(), rows(4), rows(1))
    whole = metrics_of(tmp_path, "same").read_text()
    trainer.callbacks.remove(saver)
    trainer.fit(Model(), rows(4), rows(1), ckpt_path=saver.saved[1])
    assert metrics_of(tmp_path, "same").read_text() == whole
    trainer_for(tmp_path, "new").fit(Model(), rows(4), rows(1), ckpt_path=saver.saved[2])
    new, columns = metrics_of(tmp_path, "new").read_text().splitlines(), whole.splitlines()[0]
    assert new[0] == columns
    assert new[1:] == whole.splitlines()[-len(new) + 1 :]


def test_another_runs_file_is_replaced_and_that_is_said(tmp_path):
    saver = SaveAt(tmp_path, "on_validation_end")
    trainer_for(tmp_path, "whole", saver).fit(Model(), rows(4), rows(1))
    other = metrics_of(tmp_path, "other")
    other.parent.mkdir()
    other.write_text("loss,step\n" + "".join(f"{i},{i}\n" for i in range(20)))
    with pytest.warns(UserWarning, match="earlier run and will be replaced"):
        trainer_for(tmp_path, "other").fit(Model(), rows(4), rows(1), ckpt_path=saver.saved[2])
    assert "19,19" not in other.read_text()

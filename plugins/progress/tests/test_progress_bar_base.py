from __future__ import annotations

import subprocess
import sys

import pytest

from leyden.callbacks import ProgressBar

pytestmark = pytest.mark.filterwarnings("ignore:There is a validation_step and no val_dataloader")


class Lines(ProgressBar):
    """A user's own bar, written as the documentation says."""

    def __init__(self):
        super().__init__()
        self.lines = []
        self.enabled = True

    def disable(self):
        self.enabled = False

    def enable(self):
        self.enabled = True

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.enabled:
            metrics = self.get_metrics(trainer, pl_module)
            self.lines.append((batch_idx + 1, self.total_train_batches, metrics))

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if self.has_dataloader_changed(dataloader_idx):
            self.lines.append((dataloader_idx, self.total_val_batches_current_dataloader, self.total_val_batches))

    def on_validation_end(self, trainer, pl_module):
        self.reset_dataloader_idx_tracker()


def test_a_bar_of_ones_own_takes_the_defaults_place(make_trainer, make_model, make_loader):
    bar = Lines()
    trainer = make_trainer(bar, max_epochs=1)
    assert trainer.progress_bar_callback is bar
    trainer.fit(make_model(), make_loader(2))
    assert bar.lines == [(1, 2, {"train_number": 0.0}), (2, 2, {"train_number": 1.0})]


def test_totals_of_validation(make_trainer, make_model, make_loader):
    bar = Lines()
    trainer = make_trainer(bar, max_epochs=2, check_val_every_n_epoch=2)
    trainer.fit(make_model(), make_loader(1), [make_loader(2), make_loader(3)])
    validation = [line for line in bar.lines if isinstance(line[2], int)]
    assert validation == [(0, 2, 5), (1, 3, 5)]


def test_what_must_be_written_is_named():
    bar = ProgressBar()
    with pytest.raises(NotImplementedError, match=r"does not implement disable\(\)"):
        bar.disable()
    with pytest.raises(NotImplementedError, match=r"does not implement enable\(\)"):
        bar.enable()
    with pytest.raises(TypeError, match="not set before a run begins"):
        bar.trainer


def test_nothing_heavy_is_imported_before_a_bar_is_drawn():
    code = """
import sys
from leyden.callbacks import ModelSummary, RichModelSummary, RichProgressBar
import leyden_progress.plugin
RichProgressBar(), RichModelSummary(), ModelSummary()
print([name for name in ("rich.console", "rich.progress", "torch.utils.flop_counter") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

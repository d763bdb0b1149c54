from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

SCRIPT = """
import signal, sys
import torch
from torch import nn
import leyden as pl
from leyden.utilities import rank_zero_info

torch.set_num_threads(1)

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        if batch_idx == 3:
            rank_zero_info("logged in epoch %d", self.current_epoch)
            print("printed in epoch", self.current_epoch)
            if sys.argv[1] == "interrupted" and self.current_epoch == 1:
                signal.raise_signal(signal.SIGINT)
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

class Batches:
    def __len__(self):
        return 5

    def __iter__(self):
        return iter([torch.ones(1, 2)] * 5)

pl.Trainer(accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_model_summary=False,
           default_root_dir=sys.argv[2]).fit(Model(), Batches())
"""


@pytest.mark.parametrize("how", ["finished", "interrupted"])
def test_the_default_bar_in_a_process_of_its_own(how, make_terminal, tmp_path):
    master, slave = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")}
    environment.update(TERM="xterm-256color", COLUMNS="120", LINES="30")
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how, str(tmp_path)], stdout=slave, stderr=slave, stdin=slave, env=environment
    )
    os.close(slave)
    written = b""
    with open(master, "rb", buffering=0) as screen:
        while chunk := _read(screen):
            written += chunk
    process.wait(timeout=60)
    terminal = make_terminal()
    terminal.write(written.decode())
    bars = [line for line in terminal.lines if line.startswith("Epoch")]
    assert len(bars) == 1, terminal.lines
    assert (" 5/5 " if how == "finished" else " 3/5 ") in bars[0], terminal.lines
    above = terminal.lines[: terminal.lines.index(bars[0])]
    for epoch in (0, 1):
        assert f"logged in epoch {epoch}" in above
        assert f"printed in epoch {epoch}" in above
    assert terminal.cursor_is_visible


def _read(screen):
    try:
        return screen.read(65536)
    except OSError:  # Linux raises this when the other side of a pseudo-terminal is closed
        return b""

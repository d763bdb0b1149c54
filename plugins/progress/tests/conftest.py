"""A fake terminal, a fake clock and a small model, for the tests of bars and summaries."""

from __future__ import annotations

import io
import logging
import re
from contextlib import nullcontext, redirect_stdout

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl

CONTROL = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")


class Terminal(io.StringIO):
    """A fake terminal, whose :attr:`lines` are the text that a person would see."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """The lines of the screen, without blank lines at its end."""
        rows, row, column, text = [""], 0, 0, self.getvalue()
        position = 0
        while position < len(text):
            control = CONTROL.match(text, position)
            if control:
                position = control.end()
                argument, kind = control.groups()
                if kind == "A":
                    row = max(0, row - int(argument or 1))
                elif kind == "K":
                    rows[row] = ""
                continue
            character = text[position]
            position += 1
            if character == "\r":
                column = 0
            elif character == "\n":
                row, column = row + 1, 0
                if row == len(rows):
                    rows.append("")
            else:
                rows[row] = rows[row][:column].ljust(column) + character + rows[row][column + 1 :]
                column += 1
        lines = [line.rstrip() for line in rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def cursor_is_visible(self) -> bool:
        return self.getvalue().rfind("\x1b[?25l") <= self.getvalue().rfind("\x1b[?25h")


class Clock:
    """A fake monotonic clock for the bars, in seconds; only the test advances it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("leyden_progress.drawing.monotonic", clock)
    return clock


@pytest.fixture
def terminal(monkeypatch, caplog):
    """A fake terminal of 120 columns without colours as standard output, to which the log writes nothing."""
    caplog.set_level(logging.WARNING, "leyden")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "TQDM_MINITERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "30")
    # rich checks only once whether its global console is a terminal.
    monkeypatch.setattr("rich._console", None)
    return Terminal()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    # Not in the fixture, since pytest replaces standard output after fixtures have run.
    terminal = pyfuncitem.funcargs.get("terminal")
    with redirect_stdout(terminal) if terminal is not None else nullcontext():
        return (yield)


class Model(pl.LightningModule):
    """Logs the numbers of its batches, so that the bar's text is predictable; ``on_step`` is called in each step."""

    def __init__(self, on_step=lambda model, batch_idx: None):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.on_step = on_step

    def training_step(self, batch, batch_idx):
        self.log("train_number", float(batch_idx), prog_bar=True, batch_size=1)
        self.on_step(self, batch_idx)
        return self.layer(batch[0]).sum()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_number", 10.0 + batch_idx, prog_bar=True, batch_size=1)
        self.on_step(self, batch_idx)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.on_step(self, batch_idx)

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        self.on_step(self, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def loader(batches):
    return DataLoader(TensorDataset(torch.ones(batches, 2)), batch_size=1)


@pytest.fixture
def make_terminal():
    return Terminal


@pytest.fixture
def make_model():
    return Model


@pytest.fixture
def make_loader():
    return loader


@pytest.fixture
def make_trainer(tmp_path):
    def make(*callbacks, **arguments):
        defaults = {
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "max_epochs": 2,
            "default_root_dir": tmp_path,
        }
        return pl.Trainer(callbacks=list(callbacks), **{**defaults, **arguments})

    return make

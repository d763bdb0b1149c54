"""The table of results that ``validate`` and ``test`` print."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import leyden as pl


class Accuracy(pl.LightningModule):
    """Logs an accuracy and, for the second of several loaders only, another number."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("accuracy", 0.25 + dataloader_idx, batch_size=1)
        if dataloader_idx == 1:
            self.log("extra", 12345.678, batch_size=1, add_dataloader_idx=False)

    test_step = validation_step


class Silent(pl.LightningModule):
    """Logs nothing."""

    def test_step(self, batch: Any, batch_idx: int) -> None: ...


@pytest.fixture
def trainer(tmp_path):
    def make(**options: Any) -> pl.Trainer:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        return pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet, **options)

    return make


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_results_are_printed(trainer, stage, capsys):
    getattr(trainer(), stage)(Accuracy(), torch.ones(2, 1))
    rule, head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == [stage, "metric", "value"]
    assert lines == [rule, f" accuracy{' ' * (len(stage) - 1)}   0.25 ", rule]


def test_a_column_for_each_loader(trainer, capsys):
    trainer().test(Accuracy(), [torch.ones(1, 1), torch.ones(1, 1)])
    _, head, _, accuracy, extra, _ = capsys.readouterr().out.splitlines()
    assert head.split() == ["test", "metric", "dataloader", "0", "dataloader", "1"]
    assert accuracy.split() == ["accuracy", "0.25", "1.25"]
    assert extra.split() == ["extra", "12345.7"]
    assert extra.index("12345.7") == head.index("dataloader 1")


def test_nothing_is_printed_where_nothing_is_asked_for_or_logged(trainer, capsys):
    trainer().test(Accuracy(), torch.ones(1, 1), verbose=False)
    with pytest.warns(UserWarning, match="barebones"):
        trainer(barebones=True).test(Accuracy(), torch.ones(1, 1))
    trainer().test(Silent(), torch.ones(1, 1))
    assert capsys.readouterr().out == ""


def test_another_plugin_may_show_them_in_its_place(trainer, capsys):
    @pl.hookimpl
    def leyden_show_results(stage, results):
        print(stage, results)
        return True

    trainer(plugins=[SimpleNamespace(leyden_show_results=leyden_show_results)]).test(Accuracy(), torch.ones(1, 1))
    assert capsys.readouterr().out == "test [{'accuracy': 0.25}]\n"

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from leyden.callbacks import ModelSummary, RichModelSummary

pytestmark = pytest.mark.filterwarnings("ignore:There is a validation_step and no val_dataloader")


@pytest.fixture
def model(make_model):
    model = make_model()
    model.extra = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    return model


def test_the_default_is_the_coloured_one(make_trainer):
    def summaries(*callbacks, **arguments):
        return [c for c in make_trainer(*callbacks, **arguments).callbacks if c.role == "model_summary"]

    assert [type(c) for c in summaries(enable_model_summary=True)] == [RichModelSummary]
    own = ModelSummary(max_depth=-1)
    assert summaries(own, enable_model_summary=True) == [own]
    assert summaries(enable_model_summary=False) == []


def test_the_plain_one_logs_a_table(caplog, make_trainer, model, make_loader):
    logger = logging.getLogger("leyden")
    logger.addHandler(caplog.handler)
    try:
        make_trainer(ModelSummary(max_depth=-1), enable_model_summary=True).fit(model, make_loader(1))
    finally:
        logger.removeHandler(caplog.handler)
    [table] = [record.getMessage() for record in caplog.records if "Params" in record.getMessage()]
    assert [line.split("|")[1].strip() for line in table.splitlines() if "|" in line] == [
        "Name", "layer", "extra", "extra.0", "extra.1",
    ]  # fmt: skip
    assert any(line.split() == ["9", "Total", "params"] for line in table.splitlines())


def test_in_a_terminal_the_default_draws_a_table(terminal, make_trainer, model, make_loader):
    model.example_input_array = torch.zeros(3, 2)
    model.forward = lambda x: model.extra(model.layer(x).expand(-1, 2))
    make_trainer(enable_model_summary=True, enable_progress_bar=False).fit(model, make_loader(1))
    text = "\n".join(terminal.lines)
    header = next(line for line in terminal.lines if "Name" in line)
    assert header.split("  ")[-1].strip() == "Out sizes"
    assert "[3, 2]" in text
    assert "Total params" in text
    assert "Total FLOPs" in text


def test_in_a_pipe_the_default_prints_a_plain_table(capsys, make_trainer, model, make_loader):
    make_trainer(enable_model_summary=True, enable_progress_bar=False).fit(model, make_loader(1))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["|", "Name", "|", "Type", "|", "Params", "|", "Mode"]
    assert all(line.isascii() for line in lines)


@pytest.mark.parametrize("kind", [ModelSummary, RichModelSummary])
def test_depth_0_and_other_ranks_show_nothing(kind, monkeypatch, capsys, make_trainer, model, make_loader):
    shown = []
    monkeypatch.setattr(kind, "summarize", lambda *args, **kwargs: shown.append(args))
    make_trainer(kind(max_depth=0), enable_progress_bar=False).fit(model, make_loader(1))
    assert shown == []
    trainer = make_trainer(kind(), enable_progress_bar=False)
    trainer.fit(model, make_loader(1))
    assert len(shown) == 1
    monkeypatch.setattr(type(trainer), "is_global_zero", False)
    make_trainer(kind(), enable_progress_bar=False).fit(model, make_loader(1))
    assert len(shown) == 1


def test_a_subclass_shows_it_elsewhere(make_trainer, model, make_loader):
    shown = {}

    class Own(ModelSummary):
        @staticmethod
        def summarize(
            summary_data,
            total_parameters,
            trainable_parameters,
            model_size,
            total_training_modes,
            total_flops,
            **kwargs,
        ):
            shown.update(kwargs, names=dict(summary_data)["Name"], total=total_parameters)

    make_trainer(Own(max_depth=1, colour="blue"), enable_model_summary=True).fit(model, make_loader(1))
    assert shown == {"colour": "blue", "names": ["layer", "extra"], "total": 9}


def test_the_window_for_summaries_without_a_trainer():
    from leyden.utilities.model_summary import ModelSummary as Summary

    assert Summary(nn.Linear(2, 3)).total_parameters == 9


def test_the_style_of_the_header(terminal, monkeypatch, make_trainer, model, make_loader):
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("COLORTERM", "truecolor")
    trainer = make_trainer(RichModelSummary(header_style="bold green"), enable_progress_bar=False)
    trainer.fit(model, make_loader(1))
    assert "\x1b[1;32m" in terminal.getvalue()

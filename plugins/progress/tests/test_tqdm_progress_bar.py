from __future__ import annotations

import pickle
import sys

import pytest
from torch.utils.data import DataLoader, IterableDataset

from leyden.callbacks import TQDMProgressBar
from leyden.utilities import MisconfigurationException
from leyden_progress.tqdm_bar import Tqdm

pytestmark = pytest.mark.filterwarnings("ignore:There is a validation_step and no val_dataloader")


class Frames(TQDMProgressBar):
    """Keeps the batch of each redraw that read the metrics."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.drawn = []

    def get_metrics(self, trainer, pl_module):
        self.drawn.append(trainer.progress.batch_idx)
        return super().get_metrics(trainer, pl_module)


def test_after_a_fit_one_line_stands_with_the_last_epochs_metrics(terminal, make_trainer, make_model, make_loader):
    make_trainer(TQDMProgressBar(), num_sanity_val_steps=2).fit(make_model(), make_loader(4), make_loader(3))
    [line] = terminal.lines
    assert line.startswith("Epoch 1: 100%|")
    assert "| 4/4 [00:00<00:00, " in line
    assert line.endswith("train_number=3.000, val_number=11.00]")


def test_redraws_are_limited_by_batches_and_by_time(clock, terminal, make_trainer, make_model, make_loader):
    seconds = 1 / 32

    def pass_time(model, batch_idx):
        clock.now += seconds

    bar = Frames()
    make_trainer(bar, max_epochs=1).fit(make_model(pass_time), make_loader(18))
    assert bar.drawn[:-3] == [4, 8, 12, 16]

    seconds = 1
    bar = Frames(refresh_rate=10)
    make_trainer(bar, max_epochs=1).fit(make_model(pass_time), make_loader(45))
    assert bar.drawn[:-3] == [10, 20, 30, 40]


def test_the_environment_can_ask_for_less(monkeypatch, terminal):
    monkeypatch.setenv("TQDM_MINITERS", "50")
    assert TQDMProgressBar().refresh_rate == 50
    assert TQDMProgressBar(refresh_rate=70).refresh_rate == 70
    assert TQDMProgressBar(refresh_rate=0).is_disabled
    monkeypatch.setenv("TQDM_MINITERS", "often")
    with pytest.raises(MisconfigurationException, match="TQDM_MINITERS='often' in the environment"):
        TQDMProgressBar()


def test_while_validation_runs_its_bar_stands_below_the_epochs(clock, terminal, make_trainer, make_model, make_loader):
    seen = []

    def look(model, batch_idx):
        clock.now += 1
        if model.trainer.validating:
            seen.append(terminal.lines)

    make_trainer(TQDMProgressBar(), max_epochs=1).fit(make_model(look), make_loader(4), make_loader(3))
    epoch, validation = seen[-1]
    assert "| 4/4 [" in epoch
    assert validation.startswith("Validation DataLoader 0: ")
    assert "| 2/3 [" in validation
    assert len(terminal.lines) == 1


@pytest.mark.parametrize(
    ("stage", "word"), [("validate", "Validation"), ("test", "Testing"), ("predict", "Predicting")]
)
def test_each_of_several_loaders_is_counted_for_itself(
    stage, word, clock, terminal, make_trainer, make_model, make_loader
):
    seen = []

    def look(model, batch_idx):
        clock.now += 1
        seen.append(terminal.lines[-1])

    getattr(make_trainer(TQDMProgressBar()), stage)(make_model(look), [make_loader(2), make_loader(3)])
    assert seen[1].startswith(f"{word} DataLoader 0: ")
    assert "| 1/2 [" in seen[1]
    assert seen[4].startswith(f"{word} DataLoader 1: ")
    assert "| 2/3 [" in seen[4]
    assert "| 3/3 [" in terminal.lines[0]


def test_a_loader_of_unknown_length(terminal, make_trainer, make_model):
    class Endless(IterableDataset):
        def __iter__(self):
            import torch

            while True:
                yield [torch.ones(1, 2)]

    def stop(model, batch_idx):
        model.trainer.should_stop = batch_idx == 2

    make_trainer(TQDMProgressBar(), max_epochs=1).fit(make_model(stop), DataLoader(Endless(), batch_size=None))
    assert "| 3/? [" in terminal.lines[-1]


def test_leave_keeps_the_bar_of_each_epoch(terminal, make_trainer, make_model, make_loader):
    make_trainer(TQDMProgressBar(leave=True), max_epochs=3).fit(make_model(), make_loader(4), make_loader(1))
    assert [line.split(":")[0] for line in terminal.lines] == ["Epoch 0", "Epoch 1", "Epoch 2"]
    assert all("| 4/4 [" in line and "val_number=10.00]" in line for line in terminal.lines)


def test_process_position_leaves_lines_free_above(terminal, make_trainer, make_model, make_loader):
    seen = []

    def look(model, batch_idx):
        seen.append(terminal.lines)

    make_trainer(TQDMProgressBar(process_position=1), max_epochs=1).fit(make_model(look), make_loader(2))
    assert seen[0][:2] == ["", ""]
    assert seen[0][2].startswith("Epoch 0")


def test_what_is_printed_stands_above_the_bar(clock, terminal, make_trainer, make_model, make_loader):
    def speak(model, batch_idx):
        clock.now += 1
        model.print("by", "the module", batch_idx, sep="-")

    trainer = make_trainer(TQDMProgressBar(), max_epochs=1)
    trainer.fit(make_model(speak), make_loader(2))
    assert terminal.lines[:-1] == ["by-the module-0", "by-the module-1"]
    assert terminal.lines[-1].startswith("Epoch 0:")
    trainer.print("after", "the fit")
    assert terminal.lines[-1] == "after the fit"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_shows_how_far_it_came(error, terminal, make_trainer, make_model, make_loader):
    def fail(model, batch_idx):
        if batch_idx == 2:
            raise error("the cause")

    with pytest.raises(error):
        make_trainer(TQDMProgressBar()).fit(make_model(fail), make_loader(4))
    [line] = terminal.lines
    assert "| 2/4 [" in line
    assert terminal.getvalue().endswith("\n")


def test_in_a_pipe_there_is_one_plain_line_per_epoch(capsys, make_trainer, make_model, make_loader):
    make_trainer(TQDMProgressBar(), num_sanity_val_steps=2).fit(make_model(), make_loader(4), make_loader(3))
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("Epoch 0: 4/4 [0:00:0")
    assert second.endswith("it/s] train_number: 3.000 val_number: 11.000")


def test_its_parts_can_be_changed_on_every_rank(monkeypatch, terminal, make_trainer, make_model, make_loader):
    class Own(TQDMProgressBar):
        def init_train_tqdm(self):
            return Tqdm(desc="mine", file=sys.stdout, disable=self.is_disabled, bar_format="{desc} {n}/{total}")

        def on_train_epoch_start(self, trainer, pl_module):
            super().on_train_epoch_start(trainer, pl_module)
            self.train_progress_bar.set_description("an epoch")

    trainer = make_trainer(Own())
    trainer.fit(make_model(), make_loader(3))
    assert terminal.lines == ["an epoch:  3/3"]
    monkeypatch.setattr(type(trainer), "is_global_zero", False)
    make_trainer(Own()).fit(make_model(), make_loader(3))
    assert terminal.lines == ["an epoch:  3/3"]


def test_a_bar_that_is_not_there_is_named(terminal):
    with pytest.raises(TypeError, match="no train bar now"):
        TQDMProgressBar().train_progress_bar


def test_a_used_bar_can_be_pickled_and_used_again(terminal, make_trainer, make_model, make_loader):
    bar = TQDMProgressBar()
    make_trainer(bar, max_epochs=1).fit(make_model(), make_loader(2))
    bar = pickle.loads(pickle.dumps(bar))
    make_trainer(bar, max_epochs=1).fit(make_model(), make_loader(2))
    assert ["| 2/2 [" in line for line in terminal.lines] == [True, True]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.5, "0.500"), (12.0, "12.00"), (3, "3"), (123456.0, "1.23e+5"), ("1", "1.000"), ("name", "name")],
)
def test_numbers_have_one_width(number, text):
    assert Tqdm.format_num(number) == text

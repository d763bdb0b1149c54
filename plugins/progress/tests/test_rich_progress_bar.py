from __future__ import annotations

import pickle
import sys

import pytest
from rich.progress import TextColumn
from torch.utils.data import IterableDataset

from leyden.callbacks import Callback, RichProgressBar, RichProgressBarTheme

pytestmark = pytest.mark.filterwarnings("ignore:There is a validation_step and no val_dataloader")


class Endless(IterableDataset):
    def __iter__(self):
        import torch

        while True:
            yield [torch.ones(1, 2)]


class Frames(RichProgressBar):
    """Keeps the batch of each redraw that read the metrics."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.drawn = []

    def get_metrics(self, trainer, pl_module):
        self.drawn.append((trainer.current_epoch, trainer.progress.batch_idx))
        return super().get_metrics(trainer, pl_module)


def test_after_a_fit_one_line_stands_with_the_last_epochs_metrics(terminal, make_trainer, make_model, make_loader):
    make_trainer(RichProgressBar()).fit(make_model(), make_loader(4), make_loader(3))
    [line] = terminal.lines
    assert line.startswith("Epoch 1/1 ")
    assert " 4/4 " in line
    assert line.endswith("train_number: 3.000 val_number: 11.000")
    assert terminal.cursor_is_visible


def test_metrics_logged_at_the_end_of_the_epoch_by_the_module_are_shown(
    terminal, make_trainer, make_model, make_loader
):
    class Late(make_model):
        def on_train_epoch_end(self):
            self.log("late", 7.0, prog_bar=True)

    make_trainer(RichProgressBar()).fit(Late(), make_loader(2))
    assert terminal.lines[-1].endswith("train_number: 1.000 late: 7.000")


def test_it_is_the_default_and_can_be_switched_off(make_trainer):
    assert type(make_trainer().progress_bar_callback) is RichProgressBar
    assert make_trainer(enable_progress_bar=False).progress_bar_callback is None
    own = RichProgressBar()
    assert [c for c in make_trainer(own).callbacks if c.role == "progress_bar"] == [own]


def test_redraws_are_limited_by_time_and_metrics_are_read_only_for_them(
    clock, terminal, make_trainer, make_model, make_loader
):
    bar = Frames()

    def pass_time(model, batch_idx):
        clock.now += 1 / 32

    make_trainer(bar, max_epochs=1).fit(make_model(pass_time), make_loader(26))
    timed = [batch for _, batch in bar.drawn[:-3]]
    assert timed == [4, 8, 12, 16, 20, 24]
    # drawn after the last batch, at the end of the epoch, and at the end of training
    assert [batch for _, batch in bar.drawn[-3:]][:2] == [26, 26]


def test_a_lower_refresh_rate_draws_less(clock, terminal, make_trainer, make_model, make_loader):
    bar = Frames(refresh_rate=2)

    def pass_time(model, batch_idx):
        clock.now += 0.25

    make_trainer(bar, max_epochs=1).fit(make_model(pass_time), make_loader(7))
    assert [batch for _, batch in bar.drawn[:3]] == [2, 4, 6]


def test_the_last_batch_of_each_epoch_is_drawn_unless_epochs_fly_by(
    clock, terminal, make_trainer, make_model, make_loader
):
    seconds = 0.05

    def pass_time(model, batch_idx):
        clock.now += seconds

    slow = Frames()
    make_trainer(slow, max_epochs=3).fit(make_model(pass_time), make_loader(3))
    assert {(0, 3), (1, 3), (2, 3)} <= set(slow.drawn)

    seconds = 0.001
    fast = Frames()
    make_trainer(fast, max_epochs=50).fit(make_model(pass_time), make_loader(3))
    assert len(fast.drawn) <= 4


def test_slow_terminals_are_drawn_on_less_often(clock, terminal, make_trainer, make_model, make_loader):
    class Slow(Frames):
        def _draw(self, metrics):
            clock.now += 0.01
            super()._draw(metrics)

    def pass_time(model, batch_idx):
        clock.now += 0.1

    bar = Slow()
    make_trainer(bar, max_epochs=1).fit(make_model(pass_time), make_loader(40))
    assert len(bar.drawn) <= 4 + 3


def test_while_validation_runs_its_bar_stands_below_the_epochs(clock, terminal, make_trainer, make_model, make_loader):
    seen = []

    def look(model, batch_idx):
        clock.now += 1
        if model.trainer.validating:
            seen.append(terminal.lines)

    make_trainer(RichProgressBar(), max_epochs=1).fit(make_model(look), make_loader(4), make_loader(3))
    epoch, validation = seen[-1]
    assert epoch.startswith("Epoch 0/0 ")
    assert " 4/4 " in epoch
    assert validation.startswith("Validation ")
    assert " 2/3 " in validation
    assert len(terminal.lines) == 1


def test_the_sanity_check_has_a_bar_that_goes(clock, terminal, make_trainer, make_model, make_loader):
    seen = []

    def look(model, batch_idx):
        clock.now += 1
        if model.trainer.sanity_checking:
            seen.append(terminal.lines)

    make_trainer(RichProgressBar(), max_epochs=1, num_sanity_val_steps=2).fit(
        make_model(look), make_loader(2), make_loader(3)
    )
    assert seen[-1][-1].startswith("Sanity Checking ")
    assert " 1/2 " in seen[-1][-1]
    assert [line.split()[0] for line in terminal.lines] == ["Epoch"]


@pytest.mark.parametrize(
    ("stage", "word"), [("validate", "Validation"), ("test", "Testing"), ("predict", "Predicting")]
)
def test_evaluations_leave_their_finished_bar(stage, word, terminal, make_trainer, make_model, make_loader):
    trainer = make_trainer(RichProgressBar())
    getattr(trainer, stage)(make_model(), make_loader(3))
    [bar] = [line for line in terminal.lines if line.startswith(word)]
    assert " 3/3 " in bar
    assert terminal.lines.index(bar) == 0, "the table of results is below the bar"
    assert terminal.cursor_is_visible


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

    getattr(make_trainer(RichProgressBar()), stage)(make_model(look), [make_loader(2), make_loader(3)])
    assert seen[1].startswith(f"{word} DataLoader 0 ")
    assert " 1/2 " in seen[1]
    assert seen[4].startswith(f"{word} DataLoader 1 ")
    assert " 2/3 " in seen[4]
    assert " 3/3 " in next(line for line in terminal.lines if line.startswith(f"{word} DataLoader 1 "))


def test_a_loader_of_unknown_length(terminal, make_trainer, make_model):
    from torch.utils.data import DataLoader

    trainer = make_trainer(RichProgressBar(), max_epochs=-1, max_steps=5)
    trainer.fit(make_model(), DataLoader(Endless(), batch_size=None))
    assert " 5/" in terminal.lines[-1]

    trainer = make_trainer(RichProgressBar(), max_epochs=1)

    def stop(model, batch_idx):
        model.trainer.should_stop = batch_idx == 2

    trainer.fit(make_model(stop), DataLoader(Endless(), batch_size=None))
    assert " 3/-- " in terminal.lines[-1]


def test_the_total_of_an_epoch_that_max_steps_ends(terminal, make_trainer, make_model, make_loader):
    make_trainer(RichProgressBar(), max_steps=3, accumulate_grad_batches=2).fit(make_model(), make_loader(10))
    assert " 6/6 " in terminal.lines[-1]


def test_leave_keeps_the_bar_of_each_epoch(terminal, make_trainer, make_model, make_loader):
    make_trainer(RichProgressBar(leave=True), max_epochs=3).fit(make_model(), make_loader(4), make_loader(1))
    assert [line.split()[1] for line in terminal.lines] == ["0/2", "1/2", "2/2"]
    assert all(" 4/4 " in line and "val_number: 10.000" in line for line in terminal.lines)


def test_what_is_printed_stands_above_the_bar(clock, terminal, make_trainer, make_model, make_loader):
    def speak(model, batch_idx):
        clock.now += 1
        model.print("by the module", batch_idx)
        print("by hand", batch_idx)

    make_trainer(RichProgressBar(), max_epochs=1).fit(make_model(speak), make_loader(2))
    assert terminal.lines[:-1] == ["by the module 0", "by hand 0", "by the module 1", "by hand 1"]
    assert terminal.lines[-1].startswith("Epoch 0/0 ")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_gives_the_terminal_back_and_shows_how_far_it_came(
    error, terminal, make_trainer, make_model, make_loader
):
    def fail(model, batch_idx):
        if batch_idx == 2:
            raise error("the cause")

    stdout = sys.stdout
    with pytest.raises(error):
        make_trainer(RichProgressBar()).fit(make_model(fail), make_loader(4))
    [line] = terminal.lines
    assert " 2/4 " in line
    assert terminal.cursor_is_visible
    assert sys.stdout is stdout


def test_a_column_that_fails_is_an_error_and_the_terminal_is_given_back(
    terminal, make_trainer, make_model, make_loader
):
    class Failing(TextColumn):
        def render(self, task):
            raise ZeroDivisionError

    class Own(RichProgressBar):
        def configure_columns(self, trainer):
            return [Failing("")]

    stdout = sys.stdout
    with pytest.raises(ZeroDivisionError):
        make_trainer(Own()).fit(make_model(), make_loader(4))
    assert terminal.cursor_is_visible
    assert sys.stdout is stdout


def test_many_metrics_go_below_a_bar_that_keeps_its_place(terminal, make_trainer, make_model, make_loader):
    class Talkative(make_model):
        def on_train_epoch_end(self):
            for name in ("accuracy", "precision", "recall"):
                self.log(f"a_rather_long_{name}", 0.5, prog_bar=True)

    make_trainer(RichProgressBar()).fit(Talkative(), make_loader(2))
    bar, metrics = terminal.lines
    assert bar.startswith("Epoch 1/1 ")
    assert " 2/2 " in bar
    assert metrics.strip().startswith("train_number: 1.000 a_rather_long_accuracy: 0.500")


def test_a_narrow_terminal_shortens_the_bar_first(monkeypatch, terminal, make_trainer, make_model, make_loader):
    monkeypatch.setenv("COLUMNS", "70")
    make_trainer(RichProgressBar()).fit(make_model(), make_loader(2))
    assert len(terminal.lines) == 2
    assert " 2/2 " in terminal.lines[0]
    assert "it/s" in terminal.lines[0]


def test_in_a_pipe_there_is_one_plain_line_per_epoch_and_evaluation(capsys, make_trainer, make_model, make_loader):
    trainer = make_trainer(RichProgressBar(), num_sanity_val_steps=2)
    model = make_model()
    trainer.fit(model, make_loader(4), make_loader(3))
    out, _ = capsys.readouterr()
    first, second = out.splitlines()
    assert first.startswith("Epoch 0/1: 4/4 [0:00:0")
    assert second.startswith("Epoch 1/1: 4/4 [0:00:0")
    assert second.endswith("it/s] train_number: 3.000 val_number: 11.000")
    trainer.predict(model, [make_loader(2), make_loader(3)])
    out, _ = capsys.readouterr()
    assert [line.split(" [")[0] for line in out.splitlines()] == [
        "Predicting DataLoader 0: 2/2",
        "Predicting DataLoader 1: 3/3",
    ]


def test_in_a_pipe_a_long_epoch_gives_a_sign_of_life(clock, capsys, make_trainer, make_model, make_loader):
    def pass_time(model, batch_idx):
        clock.now += 100

    make_trainer(RichProgressBar(), max_epochs=1).fit(make_model(pass_time), make_loader(7))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" train_number")[0] for line in lines] == [
        "Epoch 0/0: 3/7 [0:05:00, 0.01it/s]",
        "Epoch 0/0: 6/7 [0:10:00, 0.01it/s]",
        "Epoch 0/0: 7/7 [0:11:40, 0.01it/s]",
    ]


@pytest.mark.parametrize("off", ["refresh_rate", "rank", "disable"])
def test_nothing_is_drawn_when_switched_off_or_on_another_rank(
    off, monkeypatch, terminal, make_trainer, make_model, make_loader
):
    bar = Frames(refresh_rate=0 if off == "refresh_rate" else 100)
    trainer = make_trainer(bar)
    if off == "rank":
        monkeypatch.setattr(type(trainer), "is_global_zero", False)
    if off == "disable":
        bar.disable()
    assert bar.is_disabled == (off != "rank")
    trainer.fit(make_model(), make_loader(3), make_loader(2))
    assert bar.is_disabled
    assert bar.drawn == []
    assert terminal.getvalue() == ""


def test_a_bar_that_is_enabled_again_draws_from_the_next_epoch_on(terminal, make_trainer, make_model, make_loader):
    class Switch(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.progress_bar_callback.enable()

    bar = RichProgressBar()
    bar.disable()
    make_trainer(bar, Switch()).fit(make_model(), make_loader(3))
    [line] = terminal.lines
    assert line.startswith("Epoch 1/1 ")
    assert " 3/3 " in line


def test_theme_and_columns_can_be_changed(terminal, make_trainer, make_model, make_loader):
    class Own(RichProgressBar):
        def configure_columns(self, trainer):
            return [TextColumn("my {task.description}")]

        def get_metrics(self, trainer, pl_module):
            return {**super().get_metrics(trainer, pl_module), "name": "value", "whole": 3}

    theme = RichProgressBarTheme(metrics_format=".1e", metrics_text_delimiter=" | ")
    make_trainer(Own(theme=theme)).fit(make_model(), make_loader(3))
    assert " ".join(terminal.lines[-1].split()) == "my Epoch 1/1 train_number: 2.0e+00 | name: value | whole: 3"


def test_its_own_console(terminal, make_trainer, make_model, make_loader):
    bar = RichProgressBar(console_kwargs={"file": terminal, "width": 120})
    make_trainer(bar).fit(make_model(), make_loader(3))
    assert " 3/3 " in terminal.lines[-1]


def test_the_tasks_can_be_reached_while_they_are_there(clock, terminal, make_trainer, make_model, make_loader):
    seen = []

    def look(model, batch_idx):
        bar = model.trainer.progress_bar_callback
        if model.trainer.validating:
            seen.append((bar.train_progress_bar.total, bar.val_progress_bar.total))

    bar = RichProgressBar()
    make_trainer(bar, max_epochs=1).fit(make_model(look), make_loader(4), make_loader(2))
    assert seen[-1] == (4, 2)
    assert bar.train_progress_bar_id is None


def test_a_run_that_goes_on_inside_of_an_epoch_counts_on(
    clock, terminal, tmp_path, make_trainer, make_model, make_loader
):
    def save(model, batch_idx):
        if batch_idx == 2:
            model.trainer.save_checkpoint(tmp_path / "run.ckpt")

    make_trainer(RichProgressBar(), max_epochs=1).fit(make_model(save), make_loader(5))
    seen = []

    def look(model, batch_idx):
        clock.now += 1
        seen.append((batch_idx, terminal.lines[-1]))

    make_trainer(RichProgressBar(), max_epochs=1).fit(make_model(look), make_loader(5), ckpt_path=tmp_path / "run.ckpt")
    (first, _), (second, begun), (_, line) = seen
    assert (first, second) == (2, 3)
    assert " 2/5 " in begun
    assert " 4/5 " in line
    assert " 5/5 " in terminal.lines[-1]


def test_a_used_bar_can_be_pickled_and_used_again(terminal, make_trainer, make_model, make_loader):
    bar = RichProgressBar()
    make_trainer(bar, max_epochs=1).fit(make_model(), make_loader(2))
    bar = pickle.loads(pickle.dumps(bar))
    make_trainer(bar, max_epochs=1).fit(make_model(), make_loader(2))
    assert [" 2/2 " in line for line in terminal.lines] == [True, True]


def test_the_loggers_version_is_shown(terminal, make_trainer, make_model, make_loader):
    from leyden.loggers import Logger

    class Named(Logger):
        name = "named"

        def __init__(self, version):
            self._version = version

        @property
        def version(self):
            return self._version

        def log_metrics(self, metrics, step=None):
            pass

        def log_hyperparams(self, params, *args, **kwargs):
            pass

    for version, shown in ((7, "v_num: 7 "), ("a-long-name", "v_num: name ")):
        make_trainer(RichProgressBar(), logger=Named(version), log_every_n_steps=1).fit(make_model(), make_loader(2))
        assert shown in terminal.lines[-1]

    class Hides(make_model):
        def on_train_start(self):
            self.log("v_num", 1.0, prog_bar=True)

    trainer = make_trainer(RichProgressBar(), logger=Named(7), log_every_n_steps=1)
    with pytest.warns(UserWarning, match="hides the bar's own 'v_num'"):
        trainer.fit(Hides(), make_loader(2))

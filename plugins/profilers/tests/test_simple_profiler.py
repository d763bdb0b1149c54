"""The simple profiler alone: its measurements, and its table compared with pytorch-lightning's."""

import pickle
import re
import warnings

import pytest

from leyden_profilers.simple import SimpleProfiler


@pytest.fixture
def clock(monkeypatch):
    """A fake clock; ``clock(seconds)`` advances it."""
    now = 100.0

    def forward(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr("time.perf_counter", lambda: now)
    return forward


def measure(profiler, clock):
    for action, durations in {"load": [0.5], "step": [0.25, 0.75, 0.5]}.items():
        for seconds in durations:
            with profiler.profile(action):
                clock(seconds)
    clock(2.0)


def cells(report):
    """The rows of a report's table as lists of cells."""
    lines = [line for line in report.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("extended", [True, False])
def test_the_table_holds_what_lightnings_holds(clock, extended):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_lightning.profilers import SimpleProfiler as LightningProfiler

        tables = []
        for kind in (SimpleProfiler, LightningProfiler):
            profiler = kind(extended=extended)
            measure(profiler, clock)
            tables.append(cells(profiler.summary().expandtabs()))
    assert tables[0] == tables[1]
    assert tables[0][-2:] if extended else tables[0][1:]


def test_the_table_is_sorted_and_aligned(clock):
    profiler = SimpleProfiler()
    profiler.setup("fit")
    measure(profiler, clock)
    report = profiler.summary()
    assert report.startswith("FIT Profiler Report\n")
    assert cells(report) == [
        ["Action", "Mean duration (s)", "Num calls", "Total time (s)", "Percentage %"],
        ["Total", "-", "4", "4.0", "100 %"],
        ["step", "0.5", "3", "1.5", "37.5"],
        ["load", "0.5", "1", "0.5", "12.5"],
    ]
    assert len({len(line) for line in report.splitlines() if line and line[0] in "|-"}) == 1


def test_the_short_table_is_sorted_by_the_mean(clock):
    profiler = SimpleProfiler(extended=False)
    for action, seconds in {"short": 0.25, "long": 3.0}.items():
        with profiler.profile(action):
            clock(seconds)
    assert cells(profiler.summary())[1:] == [["long", "3.0", "3.0"], ["short", "0.25", "0.25"]]


def test_the_durations_of_all_calls_are_kept(clock):
    profiler = SimpleProfiler()
    measure(profiler, clock)
    assert {name: list(calls) for name, calls in profiler.recorded_durations.items()} == {
        "load": [0.5],
        "step": [0.25, 0.75, 0.5],
    }


def test_time_before_the_first_run_is_not_counted(clock):
    profiler = SimpleProfiler()
    clock(1000.0)
    profiler.setup("fit")
    with profiler.profile("step"):
        clock(1.0)
    profiler.setup("test")
    clock(1.0)
    assert cells(profiler.summary())[2][-1] == "50.0"


def test_starting_twice_and_stopping_unstarted_are_errors():
    profiler = SimpleProfiler()
    profiler.start("step")
    with pytest.raises(ValueError, match="'step' has started already"):
        profiler.start("step")
    profiler.stop("step")
    with pytest.raises(ValueError, match="'step' was never started"):
        profiler.stop("step")


def test_actions_may_lie_within_another_and_raise(clock):
    profiler = SimpleProfiler()

    def epoch():
        with profiler.profile("epoch"):
            clock(1.0)
            with profiler.profile("step"):
                clock(1.0)
                raise RuntimeError("the step")

    with pytest.raises(RuntimeError, match="the step"):
        epoch()
    assert [[row[0], row[3]] for row in cells(profiler.summary())[2:]] == [["epoch", "2.0"], ["step", "1.0"]]


@pytest.mark.parametrize("extended", [True, False])
def test_a_report_of_nothing_says_so(extended):
    assert "no action was measured" in SimpleProfiler(extended=extended).summary()


def test_the_report_goes_to_a_file(tmp_path, clock):
    profiler = SimpleProfiler(dirpath=tmp_path / "new", filename="times")
    profiler.setup("fit", local_rank=0)
    measure(profiler, clock)
    profiler.describe()
    (file,) = (tmp_path / "new").iterdir()
    assert file.name == "fit-times-0.txt"
    assert file.read_text() == profiler.summary()


def test_the_report_goes_to_the_log_directory_without_another(tmp_path, clock):
    profiler = SimpleProfiler(filename="times")
    profiler.setup("test", local_rank=1, log_dir=str(tmp_path))
    measure(profiler, clock)
    profiler.describe()
    assert [path.name for path in tmp_path.iterdir()] == ["test-times-1.txt"]


def test_without_a_filename_the_report_is_printed(clock, caplog, monkeypatch):
    monkeypatch.setattr("leyden.utilities.rank_zero.log.propagate", True)
    profiler = SimpleProfiler()
    measure(profiler, clock)
    profiler.describe()
    assert re.search(r"step +\|  0\.5", caplog.text)


def test_it_pickles(clock):
    profiler = SimpleProfiler()
    measure(profiler, clock)
    copied = pickle.loads(pickle.dumps(profiler))
    with copied.profile("after"):
        clock(1.0)
    assert set(copied.recorded_durations) == {"load", "step", "after"}

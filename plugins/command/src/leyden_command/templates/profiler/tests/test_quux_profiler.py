"""The conformance kit's checks of the quux profiler, and tests of its own features."""

import pytest
from leyden_testing import ProfilerConformance

from leyden_quux import profiler
from leyden_quux.profiler import QuuxProfiler


class TestQuux(ProfilerConformance):
    @pytest.fixture
    def name(self):
        return "quux"


def test_calls_and_the_slowest_of_them_are_kept(monkeypatch):
    ticks = iter([0.0, 1.0, 10.0, 13.0])
    monkeypatch.setattr(profiler.time, "perf_counter", lambda: next(ticks))
    quux = QuuxProfiler()
    for _ in range(2):
        with quux.profile("load"):
            pass
    times = quux.times["load"]
    assert (times.calls, times.total, times.slowest) == (2, 4.0, 3.0)


def test_what_has_not_begun_can_not_end():
    with pytest.raises(ValueError, match="'load' was never started"):
        QuuxProfiler().stop("load")
